"""Whether what was promised on one sample holds on another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from monitor.calibration.bounds import Rate
from monitor.policy.binomial import is_shown, sample_floor


class Standing(Enum):
    """What a sample says of a promised rate."""

    KEPT = "kept"
    """The upper bound is at most the target: shown, not only not refuted."""
    OPEN = "open"
    """The target lies within the bounds."""
    BROKEN = "broken"
    """The lower bound is above the target: the true rate is higher than was promised."""


@dataclass(frozen=True)
class Promise:
    """One group of benign generations that thresholds were not chosen on.

    Attributes:
        missing: of an open promise with a rate up to the target: how many more benign generations, flagged at no
            higher a rate, would show that it is kept; None for the others.
    """

    standing: Standing
    rate: Rate
    missing: int | None


def promise(found: Rate, target: float) -> Promise:
    """What `found` says of "at most `target`", with the confidence of its bounds."""
    if found.n and found.upper <= target:
        return Promise(Standing.KEPT, found, None)
    if found.lower > target:
        return Promise(Standing.BROKEN, found, None)
    return Promise(Standing.OPEN, found, missing_for(found, target))


def missing_for(found: Rate, target: float) -> int | None:
    """More generations that are needed to show "at most `target`" if no larger share of them is flagged; None where
    the share itself is too high for any number."""
    share = found.share if found.n else 0.0
    if share >= target:
        return None

    def shows(count: int) -> bool:
        return is_shown(int(share * count), count, target, found.confidence)

    low, high = found.n, max(2 * found.n, sample_floor(target, found.confidence))
    while not shows(high):
        low, high = high, 2 * high
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high - found.n
