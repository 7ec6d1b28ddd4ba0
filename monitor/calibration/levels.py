"""Thresholds of a detector, and the path from strict to loose on which they are sought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal

import numpy as np
import numpy.typing as npt

from monitor.policy import Policy
from monitor.policy.schema.detector import Threshold

_DIGITS = 5
_SMALLEST = Decimal("1e-6")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Levels:
    """A detector's thresholds; `warn` and `clear` are None where the policy does not state them."""

    fire: float
    warn: float | None
    clear: float | None

    @classmethod
    def of(cls, threshold: Threshold) -> Levels:
        return cls(threshold.fire, threshold.warn, threshold.clear)


def stated_levels(policy: Policy) -> dict[str, Levels]:
    """Of each detector as its file states them."""
    return {detector.id: Levels.of(detector.threshold) for detector in policy.document.spec.detectors}


def with_levels(policy: Policy, levels: Mapping[str, Levels]) -> Policy:
    """The policy with other thresholds; detectors that are not named keep theirs."""
    spec = policy.document.spec
    detectors = tuple(
        detector.model_copy(update={"threshold": _threshold(levels[detector.id])})
        if detector.id in levels
        else detector
        for detector in spec.detectors
    )
    document = policy.document.model_copy(update={"spec": spec.model_copy(update={"detectors": detectors})})
    return replace(policy, document=document)


def _threshold(levels: Levels) -> Threshold:
    given = {"fire": levels.fire, "warn": levels.warn, "clear": levels.clear}
    return Threshold.model_validate({name: value for name, value in given.items() if value is not None})


class LevelPath:
    """Thresholds of one detector by how many benign generations may reach them, in steps from strict to loose.

    On step m, m generations may reach `warn` and ``m * (hits + 1) // (warn_hits + 1)`` may reach `fire`: `hits` on step
    `warn_hits`. So a warning stays as many times as frequent as a firing, however loose the step.

    Args:
        peaks_g: the benign generations' peaks, -inf where there is none.
        stated: decides which of the three thresholds there are, and where `clear` lies.
        hits, warn_hits: at the target itself.
    """

    def __init__(self, peaks_g: Floats, stated: Levels, hits: int, warn_hits: int) -> None:
        self._falling_g = np.sort(peaks_g)[::-1]
        self._stated = stated
        self._hits, self._warn_hits = hits, max(warn_hits, hits)

    def at(self, step: int) -> Levels:
        fire = self.reached_by(step * (self._hits + 1) // (self._warn_hits + 1))
        warn = None if self._stated.warn is None else min(self.reached_by(step), fire)
        return Levels(fire, warn, self._clear(fire, warn))

    def reached_by(self, hits: int) -> float:
        """The smallest threshold (of 5 digits) that at most `hits` of the benign generations reach."""
        finite = int(np.isfinite(self._falling_g).sum())
        # Where fewer than `hits` were judged at all, each of them may reach it.
        return float(self._falling_g[finite - 1]) if hits >= finite else just_above(float(self._falling_g[hits]))

    def _clear(self, fire: float, warn: float | None) -> float | None:
        """Keeps its place between warn and fire; without such a place, its distance from fire."""
        old = self._stated
        if old.clear is None:
            return None
        if warn is not None and old.warn is not None and old.warn < old.fire:
            place = (old.clear - old.warn) / (old.fire - old.warn)
            return min(rounded(warn + place * (fire - warn)), fire)
        return min(rounded(fire - (old.fire - old.clear)), fire)


def just_above(score: float) -> float:
    """The smallest number of 5 significant digits above `score`."""
    exact = Decimal(score)
    step = max(Decimal(1).scaleb(exact.adjusted() - _DIGITS + 1), _SMALLEST) if exact else _SMALLEST
    above = float(((exact / step).to_integral_value(ROUND_FLOOR) + 1) * step)
    return above if above > score else float(np.nextafter(score, np.inf))


def rounded(value: float) -> float:
    """To 5 significant digits, as it will be written."""
    return float(f"{value:.{_DIGITS}g}")
