"""Policies and sources that the tests of this room share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from monitor.errors import FeaturewatchError
from monitor.policy import (
    CompiledDetector,
    CompiledRule,
    DenseProbeInfo,
    DirectionRef,
    Phase,
    PolicySet,
    SaeInfo,
    SaeProbeInfo,
    Severity,
    TokenClass,
)
from monitor.policy.when import parse_condition

Info = TypeVar("Info")

GOOD = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: harm, revision: 3, owner: oncall@example.org, status: test, runbook: "https://example.org/harm"}
spec:
  mode: alert
  match: {models: ["*Tiny*"], phases: [prompt, response]}
  fittedOn: {model: tiny, dtype: float32, hook: resid_post.14}
  detectors:
    - id: latents
      source:
        saeLatents:
          sae: tiny/resid_post.14
          latents: [{index: 7, weight: 1.5, label: "weapons"}, {index: 2}]
          combine: weighted_sum
      aggregate: {kind: ema, halfLife: 8, then: max, minTokens: 4, skip: [bos, special, template, system]}
      threshold: {warn: 4.1, fire: 7.3, clear: 5.0}
      calibration: {targetFpr: 0.01, confidence: 0.95, benign: "chat@sha256:00", n: 1000, hits: 9}
    - id: sae_probe
      source: {saeProbe: {file: weights/harm.sae.safetensors}}
      aggregate: {kind: rolling_mean, window: 16}
      threshold: {fire: 2}
    - id: dense
      source: {denseProbe: {file: weights/harm.dense.safetensors}}
      aggregate: {kind: max, minTokens: 2}
      threshold: {warn: 1, fire: 3}
  rules:
    - {id: HARM-001, when: "dense.fire or (latents.fire and sae_probe.warn)", for: 2 tokens, severity: high}
    - id: HARM-002
      when: not latents.clear
      severity: low
      actions: [alert]
  record: {content: none}
"""


@dataclass
class FakeSources:
    """One SAE at layer 14 and one at layer 9, an SAE probe and a dense probe."""

    saes: dict[str, SaeInfo] = field(
        default_factory=lambda: {
            "tiny/resid_post.14": SaeInfo("resid_post.14", 10, 8, "a" * 64),
            "tiny/resid_post.9": SaeInfo("resid_post.9", 10, 8, "b" * 64),
        }
    )
    dense: dict[str, DenseProbeInfo] = field(
        default_factory=lambda: {"weights/harm.dense.safetensors": DenseProbeInfo("resid_post.9", 8, "c" * 64)}
    )
    probes: dict[str, SaeProbeInfo] = field(
        default_factory=lambda: {
            "weights/harm.sae.safetensors": SaeProbeInfo("tiny/resid_post.14", (7, 5), (0.5, -1.0), 0.25, "d" * 64)
        }
    )

    def sae(self, sae_id: str) -> SaeInfo:
        return _found(self.saes, sae_id, "SAE")

    def labelled_latent(self, sae_id: str, label: str) -> int:
        return _found({"weapons": 7, "lies": 2}, label, f"label in {sae_id}")

    def dense_probe(self, file: str) -> DenseProbeInfo:
        return _found(self.dense, file, "probe file")

    def sae_probe(self, file: str) -> SaeProbeInfo:
        return _found(self.probes, file, "probe file")


def _found(known: dict[str, Info], name: str, kind: str) -> Info:
    if name not in known:
        raise FeaturewatchError(f"{kind} {name!r}", "there is no such thing", "name another")
    return known[name]


def detector(name: str = "d", columns: tuple[int, ...] = (0,), **changes: object) -> CompiledDetector:
    """A detector that takes its one direction as it is: `max` without skips, fire at 1."""
    fields: dict[str, object] = {
        "policy": "p",
        "id": name,
        "source": "saeLatents",
        "columns": columns,
        "weights": (1.0,) * len(columns),
        "bias": 0.0,
        "combine": "weighted_sum",
        "aggregate": "rolling_mean",
        "half_life": 0.0,
        "window": 1,
        "then_max": False,
        "min_tokens": 1,
        "skip": (),
        "phases": (Phase.PROMPT, Phase.RESPONSE),
        "warn": 1.0,
        "fire": 1.0,
        "clear": 1.0,
    }
    return CompiledDetector(**{**fields, **changes})  # type: ignore[arg-type]


def policy_set(detectors: list[CompiledDetector], rules: list[tuple[str, int]] | None = None) -> PolicySet:
    """A set with as many latents as the detectors read; rules are (when, hold), of the policy of what they name."""
    width = 1 + max(column for one in detectors for column in one.columns)
    index_of = {one.id: index for index, one in enumerate(detectors)}
    compiled = []
    for number, (when, hold) in enumerate(rules or []):
        condition = parse_condition(when)
        named = tuple(index_of[name] for name in condition.detectors)
        program = condition.program(index_of)
        owner = detectors[named[0]].policy
        compiled.append(CompiledRule(owner, 1, f"R{number}", Severity.HIGH, hold, named, when, program, ("alert",)))
    directions = tuple(DirectionRef("resid_post.1", "latent", "sae", index, "") for index in range(width))
    return PolicySet((), directions, tuple(detectors), tuple(compiled))


TEMPLATE_CLASSES = (TokenClass.BOS, TokenClass.SPECIAL, TokenClass.TEMPLATE, TokenClass.SYSTEM)
