"""Prefix-cache hits on the real vLLM with the real sidecar: the verdicts of a hit are those of a cold run.

Cold runs are the same tokens under a cache salt of their own, which shares its prefix with nobody.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from support.deployment import connected
from support.engine import EngineProcess
from support.glassllm import VOCABULARY, WIDTH, glassllm_folder
from support.reference import Reference

from monitor.cli.demo.processes import running
from monitor.cli.demo.servers import Setting, start_sidecar
from monitor.cli.demo.watch import SidecarView
from monitor.sae import DenseProbe, HookPoint, save_dense_probe
from monitor.v1.generations_pb2 import GenerationRecord

pytestmark = pytest.mark.engine

LAYERS = (1, 2)
POLICY = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: probes, revision: 1}
spec:
  mode: alert
  detectors:
    - id: ema
      source: {denseProbe: {file: layer-1.safetensors}}
      aggregate: {kind: ema, halfLife: 4, minTokens: 3}
      threshold: {warn: 0.3, fire: 0.6}
    - id: mean
      source: {denseProbe: {file: layer-2.safetensors}}
      aggregate: {kind: rolling_mean, window: 24}
      threshold: {fire: 0.25, clear: 0.1}
    - id: peak
      source: {denseProbe: {file: layer-2.safetensors}}
      aggregate: {kind: max}
      threshold: {fire: 2.5}
  rules:
    - {id: P-001, when: ema.fire, for: 2 tokens, severity: low}
    - {id: P-002, when: mean.fire and not ema.fire, for: 3 tokens, severity: medium}
    - {id: P-003, when: peak.fire or (ema.warn and mean.fire), severity: high}
"""


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "probes.yaml").write_text(POLICY)
    rng = np.random.default_rng(3)
    residuals = Reference(glassllm_folder()).residuals(rng.integers(0, VOCABULARY, 400).tolist())
    for layer in LAYERS:
        # Scores of random tokens have mean 0 and deviation 1.
        weight_d = rng.standard_normal(WIDTH).astype(np.float32)
        scores_n = residuals[layer] @ weight_d
        probe = DenseProbe(HookPoint(layer), weight_d / scores_n.std(), bias=float(-scores_n.mean() / scores_n.std()))
        save_dense_probe(probe, policies / f"layer-{layer}.safetensors")
    with tempfile.TemporaryDirectory(prefix="fw-") as sockets:
        yield Setting(
            model=str(glassllm_folder()),
            served_name="glassllm",
            target=f"unix:{sockets}/s.sock",
            folder=tmp_path,
            policies=policies,
            zoo=(),
            hook_points=[f"resid_post.{layer}" for layer in LAYERS],
            compiled=False,
            port=0,
        )


@dataclass
class Deployment:
    engine: EngineProcess
    view: SidecarView

    def until_judged(self) -> None:
        """Sends requests until one is seen whole: the watch plan is in force."""
        for number in range(50):
            records, _ = self.send(f"warm-{number}", [[number]])
            if records[0].summary.coverage.observed:
                return
        raise AssertionError("the watch plan never came into force")

    def send(
        self, name: str, prompts: Sequence[Sequence[int]], *, salted: bool = False
    ) -> tuple[list[GenerationRecord], list[list[int]]]:
        """All prompts at once; records and answers in their order."""
        ids = [f"{name}-{number}" for number in range(len(prompts))]
        salts = [{"cache_salt": id_} if salted else {} for id_ in ids]
        requests: list[dict[str, Any]] = [
            {"id": id_, "prompt": [*prompt], "max_tokens": 12, **salt}
            for id_, prompt, salt in zip(ids, prompts, salts, strict=True)
        ]
        outputs = self.engine.run(requests)
        ended = self.view.ended_generations(ids, 120)
        records = [self.view.generation(ended[id_].generation_id, seconds=0) for id_ in ids]
        return records, [outputs[id_][0] for id_ in ids]


def restored(records: Sequence[GenerationRecord]) -> int:
    for record in records:
        coverage = record.summary.coverage
        assert (coverage.unseen, coverage.dropped) == (0, 0)
        assert coverage.observed + coverage.restored == coverage.positions
        for alert in record.alerts:
            inside = any(gap.first_position <= alert.position < gap.first_position + gap.count for gap in record.gaps)
            assert alert.restored == inside
    return sum(record.summary.coverage.restored for record in records)


def check(cold: GenerationRecord, hit: GenerationRecord) -> None:
    assert [(a.policy, a.rule, a.position, a.phase) for a in hit.alerts] == [
        (a.policy, a.rule, a.position, a.phase) for a in cold.alerts
    ]
    for mine, theirs in zip(hit.alerts, cold.alerts, strict=True):
        assert [(r.detector, r.state) for r in mine.readings] == [(r.detector, r.state) for r in theirs.readings]
        assert [r.score for r in mine.readings] == pytest.approx([r.score for r in theirs.readings], abs=1e-3)
    assert [(p.detector, p.position, p.state) for p in hit.summary.peaks] == [
        (p.detector, p.position, p.state) for p in cold.summary.peaks
    ]
    assert [p.score for p in hit.summary.peaks] == pytest.approx([p.score for p in cold.summary.peaks], abs=1e-3)
    assert len(hit.tokens) == len(cold.tokens)
    for one, other in zip(hit.tokens, cold.tokens, strict=True):
        assert one.token_id == other.token_id
        if one.observed:
            assert list(one.scores) == pytest.approx(list(other.scores), abs=1e-3, nan_ok=True)


def test_hits_are_judged_as_cold_runs(setting: Setting) -> None:
    rng = Random(11)
    shared = rng.choices(range(VOCABULARY), k=100)
    prompts = [
        shared[:cut] + rng.choices(range(VOCABULARY), k=more)
        for cut, more in ((100, 90), (100, 7), (70, 60), (40, 120), (0, 75), (100, 45))
    ]
    config = {"sidecar": setting.target, "hook_points": setting.hook_points}
    # Prompts are cut in chunks of 64 tokens, and all at once they do not fit into the KV cache.
    limits = {"block_size": 32, "num_gpu_blocks_override": 22, "max_num_batched_tokens": 64}
    with (
        running(start_sidecar(setting)) as sidecar,
        EngineProcess(setting.folder / "engine.log", config, **limits) as engine,
    ):
        engine.wait_ready()
        sidecar.wait_until(lambda: connected(setting), 60, lambda _: None)
        with SidecarView(setting.target, lambda _: None) as view:
            deployment = Deployment(engine, view)
            deployment.until_judged()
            cold, answers = deployment.send("cold", prompts, salted=True)
            assert engine.preemptions > 0, "the KV cache was meant to be too small for these at once"
            assert restored(cold) == 0
            assert sum(len(record.alerts) for record in cold) >= len(prompts), "the probes were meant to fire"
            for name in ("first", "second"):
                hits, again = deployment.send(name, prompts)
                assert restored(hits) >= 32
                assert again == answers
                for one, other in zip(cold, hits, strict=True):
                    check(one, other)
            # Equal prompts that wait while a step runs begin in one step: all but one hit what that step computes.
            same = rng.choices(range(VOCABULARY), k=40)
            together = [prompts[0], *([*same, number] for number in range(4))]
            cold, _ = deployment.send("cold-together", together, salted=True)
            hits, _ = deployment.send("together", together)
            assert restored(hits[1:]) == 3 * 32
            for one, other in zip(cold, hits, strict=True):
                check(one, other)
            # The next turn of some conversations, alone: prompt, answer and more.
            for number in (0, 2, 5):
                prompt = prompts[number]
                turn = [*prompt, *answers[number], *rng.choices(range(VOCABULARY), k=20)]
                deployment.send(f"before-{number}", [prompt])
                hits, _ = deployment.send(f"turn-{number}", [turn])
                cold_turn, _ = deployment.send(f"cold-turn-{number}", [turn], salted=True)
                assert restored(hits) == (len(prompt) + 12 - 1) // 32 * 32
                check(cold_turn[0], hits[0])
            assert sum(alert.restored for record in hits for alert in record.alerts) > 0
        engine.stop()
