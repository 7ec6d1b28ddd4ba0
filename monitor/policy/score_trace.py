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
from monitor.policy.vocabulary import Phase, TokenClass


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

    @classmethod
    def of_prompt(cls, scores_p: dict[str, npt.NDArray[np.float64]], phase: Phase = Phase.PROMPT) -> ScoreTrace:
        """All in one phase; raises ValueError when the detectors' scores are not equally long."""
        lengths = {len(scores) for scores in scores_p.values()}
        if len(lengths) != 1:
            raise ValueError(f"scores of {sorted(lengths)} positions, they must be equally long")
        return cls(scores_p, np.full(lengths.pop(), phase, np.uint8))

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
        names = [detector.name for detector in self.policies.detectors]
        acts_pd = np.full((trace.positions, len(names)), np.nan, np.float32)
        for d, name in enumerate(names):
            if name in trace.scores_p:
                acts_pd[:, d] = trace.scores_p[name]
        classes_p: npt.NDArray[Any] = (
            np.full(trace.positions, TokenClass.CONTENT, np.uint8) if trace.classes_p is None else trace.classes_p
        )
        slot = self._engine.open()
        try:
            slots_p = np.full(trace.positions, slot, np.int64)
            positions_p = np.arange(trace.positions)
            return self._engine.advance(acts_pd, slots_p, classes_p, trace.phases_p, positions_n=positions_p)
        finally:
            self._engine.close(slot)
