"""Detector states from recorded aggregates, where token scores before them are missing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monitor.policy import CompiledDetector, DetectorState

#: Not a state: it follows from nothing that is recorded.
UNKNOWN = 0
_CLEAR, _WARN, _FIRE = DetectorState.CLEAR, DetectorState.WARN, DetectorState.FIRE


def state_after(state: DetectorState, score: float, detector: CompiledDetector) -> DetectorState:
    """The engine's hysteresis (`kernel.next_state`)."""
    if score >= detector.fire or (state is _FIRE and score >= detector.clear):
        return _FIRE
    if score >= detector.warn or (state is not _CLEAR and score >= min(detector.warn, detector.clear)):
        return _WARN
    return _CLEAR


def known_states(
    detector: CompiledDetector, token_scores_p: npt.NDArray[np.float64], scores_p: npt.NDArray[np.float64]
) -> npt.NDArray[np.int8]:
    """int8 [p], codes of `DetectorState`, UNKNOWN where more than one is possible.

    Nothing is assumed of what came before the first recorded score: any state may have been reached, and `minTokens`
    may have passed or not.
    """
    states_p = np.zeros(len(scores_p), np.int8)
    possible = {_CLEAR, _WARN, _FIRE}
    judged = 0
    for p, (token_score, score) in enumerate(zip(token_scores_p.tolist(), scores_p.tolist(), strict=True)):
        if not np.isnan(token_score) and not np.isnan(score):
            judged += 1
            after = {state_after(state, score, detector) for state in possible}
            possible = after if judged >= detector.min_tokens else after | ({_CLEAR} & possible)
        states_p[p] = next(iter(possible)) if len(possible) == 1 else UNKNOWN
    return states_p
