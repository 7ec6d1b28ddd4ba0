"""`onUnseen: reread` on the real vLLM with the real sidecar: a cached prefix is used only if its state is known."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from support.engine import EngineProcess
from support.glassllm import WIDTH, glassllm_folder

from monitor.cli.demo.processes import Child, running
from monitor.cli.demo.servers import Setting, start_sidecar
from monitor.cli.demo.watch import SidecarView
from monitor.sae import DenseProbe, HookPoint, save_dense_probe
from monitor.v1.coverage_pb2 import Coverage

pytestmark = pytest.mark.engine

POLICY = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: everything, revision: 1}
spec:
  onUnseen: reread
  detectors:
    - id: dense
      source: {denseProbe: {file: all.safetensors}}
      aggregate: {kind: max}
      threshold: {fire: 1000000}
  rules:
    - {id: ALL-001, when: dense.fire, severity: low}
"""
PROMPT = list(range(100, 180))
BLOCK, CACHED = 32, 64
ANSWER = 4
ALL = len(PROMPT) + ANSWER - 1
EVERYTHING = Coverage(positions=ALL, observed=ALL)
AGAIN = "computed again where the sidecar has no detector state"


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "everything.yaml").write_text(POLICY)
    save_dense_probe(DenseProbe(HookPoint(1), np.ones(WIDTH, np.float32), bias=0.0), policies / "all.safetensors")
    with tempfile.TemporaryDirectory(prefix="fw-") as sockets:
        yield Setting(
            model=str(glassllm_folder()),
            served_name="glassllm",
            target=f"unix:{sockets}/s.sock",
            folder=tmp_path,
            policies=policies,
            zoo=(),
            hook_points=["resid_post.1"],
            compiled=False,
            port=0,
        )


@dataclass
class Deployment:
    """An engine and a sidecar."""

    engine: EngineProcess
    view: SidecarView
    sent: Iterator[int]

    def send(self) -> str:
        name = f"request-{next(self.sent)}"
        self.engine.run([{"id": name, "prompt": PROMPT, "max_tokens": ANSWER}])
        return name

    def coverage(self, name: str) -> Coverage:
        coverage = self.view.ended_generations([name], 120)[name].coverage
        assert coverage.positions == ALL
        return coverage

    def until_used(self) -> None:
        """A prefix becomes known a moment after it was judged; until then it is computed again, and after that used."""
        for _ in range(100):
            coverage = self.coverage(self.send())
            if coverage.restored:
                break
            assert coverage == EVERYTHING
        assert coverage == Coverage(positions=ALL, restored=CACHED, observed=ALL - CACHED)


@contextmanager
def deployed(engine: EngineProcess, sidecar: Child, setting: Setting, sent: Iterator[int]) -> Iterator[Deployment]:
    """Once the engine's scheduler has been told by this sidecar that prefixes are to be read again."""
    told = 1 if sidecar.log.parent == setting.folder else 2
    sidecar.wait_until(lambda: said(engine, AGAIN) >= told, 120, lambda _: None)
    with SidecarView(setting.target, lambda _: None) as view:
        yield Deployment(engine, view, sent)


def said(engine: EngineProcess, text: str) -> int:
    """How often it is in the engine's log."""
    return engine.log.read_text(errors="replace").count(text)


def test_a_cached_prefix_is_computed_again_until_its_state_is_known(setting: Setting) -> None:
    config = {"sidecar": setting.target, "hook_points": setting.hook_points}
    sent = count(1)
    with EngineProcess(setting.folder / "engine.log", config, block_size=BLOCK) as engine:
        with running(start_sidecar(setting)) as first:
            engine.wait_ready()
            with deployed(engine, first, setting, sent) as deployment:
                assert deployment.coverage(deployment.send()) == EVERYTHING
                deployment.until_used()
        while not said(engine, "no word from the sidecar about prefixes"):
            time.sleep(0.01)
        away = deployment.send()
        with running(successor(setting)) as second, deployed(engine, second, setting, sent) as deployment:
            assert deployment.coverage(away) == Coverage(positions=ALL, unseen=CACHED, observed=ALL - CACHED), (
                "nobody there to ask: used, and told as unseen"
            )
            assert deployment.coverage(deployment.send()) == EVERYTHING, "the engine's cache has it, the sidecar not"
            deployment.until_used()
            engine.stop()
        assert said(engine, "the sidecar is away; cached prefixes are used without being observed") == 1
        assert said(engine, "asking for known prefixes failed") == 0


def successor(setting: Setting) -> Child:
    """A sidecar with an empty store of prefixes in the place of the first; the logs of both stay."""
    folder = setting.folder / "second"
    folder.mkdir()
    return start_sidecar(replace(setting, folder=folder))
