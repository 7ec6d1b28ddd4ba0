"""The histogram of decision latencies against numpy's quantiles."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitor.sidecar.metrics.latency import BOUNDS_NANOS, LatencyHistogram


@given(st.lists(st.integers(10_001, 3_000_000_000), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_quantiles_are_within_a_bucket(nanos: list[int], share: float) -> None:
    histogram = LatencyHistogram()
    for value in nanos:
        histogram.add(value)
    exact = float(np.quantile(nanos, share, method="inverted_cdf"))
    found = histogram.quantile_nanos(share)
    if exact <= BOUNDS_NANOS[-1]:
        assert exact / 1.15 <= found <= exact * 1.15
    else:
        assert BOUNDS_NANOS[-1] <= found <= max(nanos)
    assert histogram.count == len(nanos)
    assert (histogram.total_nanos, histogram.largest_nanos) == (sum(nanos), max(nanos))


def test_buckets_are_cumulative_and_their_bounds_belong_to_them() -> None:
    histogram = LatencyHistogram()
    for value in (-5, 250_000, 250_001, 2_000_000_000):
        histogram.add(value)
    buckets = dict(histogram.cumulative())
    assert buckets[0.00001] == 1
    assert buckets[0.00025] == 2
    assert buckets[0.000275] == 3
    assert buckets[1.0] == 3
    assert buckets[float("inf")] == 4
    assert all(a <= b for a, b in itertools.pairwise(buckets.values()))
    assert histogram.total_nanos == 2_000_500_001


def test_bounds_are_fine_and_hold_the_limits_that_matter() -> None:
    assert max(b / a for a, b in itertools.pairwise(BOUNDS_NANOS)) < 1.15
    assert {250_000, 1_000_000, 2_000_000, 5_000_000, 50_000_000} <= set(BOUNDS_NANOS)


def test_an_empty_histogram_and_a_copy() -> None:
    histogram = LatencyHistogram()
    assert histogram.quantile_nanos(0.99) == 0.0
    copy = histogram.copy()
    histogram.add(7)
    assert (copy.count, histogram.count) == (0, 1)
