"""Exact bounds on a share that was counted (Clopper and Pearson 1934)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from monitor.policy.binomial import upper_bound


@dataclass(frozen=True)
class Rate:
    """`hits` of `n` generations.

    Attributes:
        confidence: of the bounds.
        low, high: two-sided interval for the true share; 0 and 1 where nothing was counted.
        lower, upper: one-sided bounds: the true share is above the one, and below the other, with this confidence each.
    """

    n: int
    hits: int
    confidence: float
    low: float
    high: float
    lower: float
    upper: float

    @property
    def share(self) -> float:
        """NaN where nothing was counted."""
        return self.hits / self.n if self.n else math.nan


def rate(hits: int, n: int, confidence: float) -> Rate:
    """Raises ValueError unless 0 <= hits <= n."""
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} hits of {n}: at least 0 and at most {n}")
    tail = (1 + confidence) / 2
    return Rate(
        n,
        hits,
        confidence,
        low=lower_bound(hits, n, tail),
        high=upper_bound(hits, n, tail),
        lower=lower_bound(hits, n, confidence),
        upper=upper_bound(hits, n, confidence),
    )


def lower_bound(hits: int, n: int, confidence: float) -> float:
    """The share that the true one is above with this confidence."""
    return 1.0 - upper_bound(n - hits, n, confidence)
