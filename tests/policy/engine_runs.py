"""Runs of the engine on one request."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from policy_samples import policy_set

from monitor.policy import CompiledDetector, DetectorState, Judgement, Phase, PolicyEngine, PolicySet, TokenClass


def judge(
    policies: PolicySet,
    values: list[float] | npt.NDArray[np.float64],
    classes: list[int] | None = None,
    phases: list[int] | None = None,
) -> Judgement:
    """One request whose directions all have these activations."""
    engine = PolicyEngine(policies)
    acts = np.repeat(np.array(values, np.float32)[:, None], len(policies.directions), axis=1)
    count = len(values)
    return engine.advance(
        acts,
        np.full(count, engine.open()),
        np.array(classes or [TokenClass.CONTENT] * count, np.uint8),
        np.array(phases or [Phase.RESPONSE] * count, np.uint8),
    )


def states(one: CompiledDetector, values: list[float]) -> list[DetectorState]:
    return [DetectorState(state) for state in judge(policy_set([one]), values).states_nd[:, 0]]


def scores(one: CompiledDetector, values: list[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return judge(policy_set([one]), values).scores_nd[:, 0]
