"""A histogram of latencies: cheap to add to, fine enough for quantiles."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

_MANTISSAS: Final = (
    1,
    1.1,
    1.2,
    1.35,
    1.5,
    1.65,
    1.8,
    2,
    2.25,
    2.5,
    2.75,
    3,
    3.3,
    3.6,
    4,
    4.5,
    5,
    5.5,
    6,
    6.5,
    7,
    8,
    9,
)
BOUNDS_NANOS: Final = tuple(
    round(mantissa * 10**power) for power in range(4, 10) for mantissa in _MANTISSAS if power < 9 or mantissa == 1
)
"""Upper bounds from 10 us to 1 s, at most 14 % apart; what is above falls into one last bucket."""


class LatencyHistogram:
    """Counts by bucket. One thread adds; others may read, best from a `copy` made by that thread."""

    __slots__ = ("_counts", "largest_nanos", "total_nanos")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_NANOS) + 1)
        self.total_nanos = 0
        self.largest_nanos = 0

    def add(self, nanos: int) -> None:
        """Takes one latency; what is below zero (clocks of two hosts, a clock that was set) counts as zero."""
        nanos = max(nanos, 0)
        self._counts[bisect_left(BOUNDS_NANOS, nanos)] += 1
        self.total_nanos += nanos
        self.largest_nanos = max(self.largest_nanos, nanos)

    def copy(self) -> LatencyHistogram:
        other = LatencyHistogram()
        other._counts = [*self._counts]
        other.total_nanos, other.largest_nanos = self.total_nanos, self.largest_nanos
        return other

    @property
    def count(self) -> int:
        return sum(self._counts)

    def quantile_nanos(self, share: float) -> float:
        """Linear within its bucket, never above the largest latency seen; 0 when nothing was added."""
        wanted, below, lower = share * self.count, 0, 0
        for bound, count in zip((*BOUNDS_NANOS, self.largest_nanos), self._counts, strict=True):
            if count and below + count >= wanted:
                inside: float = lower + (bound - lower) * (wanted - below) / count
                return min(inside, float(self.largest_nanos))
            below, lower = below + count, bound
        return 0.0

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """(upper bound in seconds, latencies up to it), ascending; the last bound is infinity."""
        below = 0
        for bound, count in zip(BOUNDS_NANOS, self._counts, strict=False):
            below += count
            yield bound / 1e9, below
        yield float("inf"), below + self._counts[-1]
