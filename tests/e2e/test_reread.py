"""`onUnseen: reread` on the real vLLM with the real sidecar: a cached prefix is used only if its state is known."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
CACHED = 64  # Two of the CPU engine's blocks of 32.
ANSWER = 4
ALL = len(PROMPT) + ANSWER - 1
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
    """An engine, and what its log says of the sidecar."""

    engine: EngineProcess
    setting: Setting
    sent: int = 0

    def follows(self, sidecar: Child, times: int) -> None:
        """Waits until the scheduler has been told for the n-th time that prefixes are to be read again."""
        log = self.engine.log
        sidecar.wait_until(lambda: log.read_text(errors="replace").count(AGAIN) >= times, 120, lambda _: None)

    def send(self) -> str:
        self.sent += 1
        name = f"request-{self.sent}"
        self.engine.run([{"id": name, "prompt": PROMPT, "max_tokens": ANSWER}])
        return name

    def coverage(self, name: str) -> Coverage:
        with SidecarView(self.setting.target, lambda _: None) as view:
            coverage = view.ended_generations([name], 120)[name].coverage
        assert coverage.positions == ALL
        return coverage

    def until_used(self) -> None:
        """A prefix becomes known a moment after it was judged; until then it is computed again, and after that used."""
        for _ in range(100):
            coverage = self.coverage(self.send())
            if coverage.restored:
                break
            assert coverage == Coverage(positions=ALL, observed=ALL)
        assert coverage == Coverage(positions=ALL, restored=CACHED, observed=ALL - CACHED)


def test_a_cached_prefix_is_computed_again_until_its_state_is_known(setting: Setting) -> None:
    config = {"sidecar": setting.target, "hook_points": setting.hook_points}
    everything = Coverage(positions=ALL, observed=ALL)
    with running(start_sidecar(setting)) as first, EngineProcess(setting.folder / "engine.log", config) as engine:
        engine.wait_ready()
        deployment = Deployment(engine, setting)
        deployment.follows(first, times=1)
        assert deployment.coverage(deployment.send()) == everything
        deployment.until_used()
        first.stop()
        away = deployment.send()
        with running(_successor(setting)) as second:
            deployment.follows(second, times=2)
            lost = deployment.coverage(away)
            assert (lost.unseen, lost.observed) == (CACHED, ALL - CACHED), (
                "nobody there to ask: used, and told as unseen"
            )
            assert deployment.coverage(deployment.send()) == everything, "the engine's cache has it, the sidecar not"
            deployment.until_used()
        engine.stop()
        log = engine.log.read_text(errors="replace")
    assert "the sidecar is away; cached prefixes are used without being observed" in log
    assert "1 unchecked" in log
    assert "an error" not in log


def _successor(setting: Setting) -> Child:
    """A sidecar with an empty store of prefixes in the place of the first; the logs of both stay."""
    folder = setting.folder / "second"
    folder.mkdir()
    return start_sidecar(replace(setting, folder=folder))
