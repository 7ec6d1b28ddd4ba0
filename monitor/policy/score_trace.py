"""Judging generations again from the scores of their tokens: tests, calibration and replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.policy.compile import compile_scores
from monitor.policy.engine import Judgement, PolicyEngine
from monitor.policy.policy import Policy
from monitor.policy.vocabulary import TokenClass


@dataclass(frozen=True)
class ScoreTrace:
    """The token scores of one generation from position 0 on.

    Attributes:
        scores_p: float64 [p] by ``<policy>/<detector>``; NaN where the detector did not judge. Detectors that are not
            named judge nothing.
        phases_p: uint8 [p], codes of `Phase`.
        classes_p: uint8 [p], codes of `TokenClass`; None where they are not known: then what is NaN was skipped, and
            nothing else is.
    """

    scores_p: dict[str, npt.NDArray[np.float64]]
    phases_p: npt.NDArray[np.uint8]
    classes_p: npt.NDArray[np.uint8] | None = None

    @property
    def positions(self) -> int:
        return len(self.phases_p)


class ScoreJudge:
    """The production engine over token scores, one generation after the other.

    Aggregates, states, persistence and rules are those of `PolicyEngine`; only the step from activations to a token's
    score is left out.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        """Raises PolicyError when two policies have one name."""
        self.policies = compile_scores(policies)
        self._engine = PolicyEngine(self.policies, capacity=1)

    def judge(self, trace: ScoreTrace) -> Judgement:
        """The whole generation; rows are positions."""
        return self.judge_all([trace])

    def judge_all(self, traces: Sequence[ScoreTrace]) -> Judgement:
        """Generations of requests of their own, in one call of the engine; rows are the positions of the first, then
        those of the second, and so on."""
        names = [detector.name for detector in self.policies.detectors]
        total = sum(trace.positions for trace in traces)
        acts_nd = np.full((total, len(names)), np.nan, np.float32)
        classes_n: npt.NDArray[Any] = np.full(total, TokenClass.CONTENT, np.uint8)
        phases_n, positions_n = np.empty(total, np.uint8), np.empty(total, np.int64)
        slots_n = np.empty(total, np.int64)
        slots = [self._engine.open() for _ in traces]
        try:
            first = 0
            for slot, trace in zip(slots, traces, strict=True):
                rows = slice(first, first + trace.positions)
                for d, name in enumerate(names):
                    if name in trace.scores_p:
                        acts_nd[rows, d] = trace.scores_p[name]
                if trace.classes_p is not None:
                    classes_n[rows] = trace.classes_p
                phases_n[rows], positions_n[rows], slots_n[rows] = trace.phases_p, np.arange(trace.positions), slot
                first += trace.positions
            return self._engine.advance(acts_nd, slots_n, classes_n, phases_n, positions_n=positions_n)
        finally:
            for slot in slots:
                self._engine.close(slot)
