"""What a policy says of generations, by the production engine over their token scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from monitor.calibration.generation import Generation
from monitor.policy import DetectorState, Mode, Policy
from monitor.policy.score_trace import ScoreJudge

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
    judge_one = ScoreJudge([replace(policy, mode=Mode.SHADOW)])
    detectors, rules = judge_one.policies.detectors, judge_one.policies.rules
    count = len(generations)
    peaks_gd = np.full((count, len(detectors)), -np.inf)
    fired_gd = np.zeros((count, len(detectors)), np.bool_)
    rules_gr = np.zeros((count, len(rules)), np.bool_)
    least_d = np.array([detector.min_tokens for detector in detectors])
    for g, generation in enumerate(generations):
        found = judge_one.judge(generation.trace)
        judged_pd = np.isfinite(found.token_scores_nd)
        may_leave_pd = judged_pd & (judged_pd.cumsum(0) >= least_d)
        peaks_gd[g] = np.where(may_leave_pd, found.scores_nd, -np.inf).max(0, initial=-np.inf)
        fired_gd[g] = (found.states_nd == DetectorState.FIRE).any(0)
        for firing in found.firings:
            rules_gr[g, firing.rule] = True
    return Judged(
        peaks={detector.id: peaks_gd[:, d] for d, detector in enumerate(detectors)},
        fired={detector.id: fired_gd[:, d] for d, detector in enumerate(detectors)},
        rules={rule.id: rules_gr[:, r] for r, rule in enumerate(rules)},
        flagged_g=np.asarray(rules_gr.any(1), np.bool_),
    )
