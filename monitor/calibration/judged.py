"""What a policy says of generations, by the production engine over their token scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from monitor.calibration.generation import Generation
from monitor.policy import DetectorState, Mode, Policy
from monitor.policy.score_trace import ScoreJudge

# Generations that the engine holds at once: a window of 4,096 tokens takes 32 KiB per detector and generation.
_TOGETHER = 256

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """Verdicts on generations g.

    Attributes:
        peaks: per detector float64 [g], the highest aggregated score of the tokens at which its state may leave clear,
            so it fires where this reaches the fire threshold; -inf where it judged fewer tokens than that.
        fired: per detector, it was in state fire at some token.
        rules: per rule, it fired.
        flagged_g: some rule fired.
    """

    peaks: dict[str, Floats]
    fired: dict[str, Bools]
    rules: dict[str, Bools]
    flagged_g: Bools


def judge(policy: Policy, generations: Sequence[Generation]) -> Judged:
    """Runs every generation through the policy; its mode, tenants, sample and exceptions play no part."""
    # A policy that is off would not be compiled.
    scores = ScoreJudge([replace(policy, mode=Mode.SHADOW)])
    detectors, rules = scores.policies.detectors, scores.policies.rules
    count = len(generations)
    peaks_gd = np.full((count, len(detectors)), -np.inf)
    fired_gd = np.zeros((count, len(detectors)), np.bool_)
    rules_gr = np.zeros((count, len(rules)), np.bool_)
    least_d = np.array([detector.min_tokens for detector in detectors])
    for begin in range(0, count, _TOGETHER):
        traces = [generation.trace for generation in generations[begin : begin + _TOGETHER]]
        found = scores.judge_all(traces)
        lengths_g = np.array([trace.positions for trace in traces])
        generation_n = np.repeat(np.arange(begin, begin + len(traces)), lengths_g)
        starts_g = np.cumsum(lengths_g) - lengths_g
        judged_nd = np.isfinite(found.token_scores_nd)
        # Tokens judged so far, of this generation alone.
        so_far_nd = np.zeros((len(generation_n) + 1, len(detectors)), np.int64)
        np.cumsum(judged_nd, axis=0, out=so_far_nd[1:])
        own_nd = so_far_nd[1:] - np.repeat(so_far_nd[starts_g], lengths_g, axis=0)
        shown_nd = np.where(judged_nd & (own_nd >= least_d), found.scores_nd, -np.inf)
        np.maximum.at(peaks_gd, generation_n, shown_nd)
        np.logical_or.at(fired_gd, generation_n, found.states_nd == DetectorState.FIRE)
        for firing in found.firings:
            rules_gr[generation_n[firing.row], firing.rule] = True
    return Judged(
        peaks={detector.id: peaks_gd[:, d] for d, detector in enumerate(detectors)},
        fired={detector.id: fired_gd[:, d] for d, detector in enumerate(detectors)},
        rules={rule.id: rules_gr[:, r] for r, rule in enumerate(rules)},
        flagged_g=np.asarray(rules_gr.any(1), np.bool_),
    )
