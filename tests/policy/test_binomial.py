"""The bounds are those of scipy, and exact where they can be counted."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monitor.policy.binomial import is_shown, probability_of_at_most, sample_floor, upper_bound

RATES = st.floats(1e-9, 1.0, exclude_max=True)
CONFIDENCES = st.floats(0.01, 0.9999)


@given(st.integers(1, 10**9), st.data(), RATES)
def test_the_tail_is_that_of_scipy(n: int, data: st.DataObject, rate: float) -> None:
    spread = int(10 * (n * rate * (1 - rate)) ** 0.5) + 10
    near = st.integers(max(0, int(n * rate) - spread), min(n, int(n * rate) + spread))
    hits = data.draw(st.one_of(near, st.integers(0, n)))
    expected = stats.binom.cdf(hits, n, rate)
    assert probability_of_at_most(hits, n, rate) == pytest.approx(expected, rel=1e-5, abs=1e-10)


@given(st.integers(1, 60), st.data(), st.fractions(Fraction(1, 100), Fraction(99, 100), max_denominator=100))
def test_the_tail_is_the_sum_of_its_terms(n: int, data: st.DataObject, rate: Fraction) -> None:
    hits = data.draw(st.integers(0, n))
    exact = sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(hits + 1))
    assert probability_of_at_most(hits, n, float(rate)) == pytest.approx(float(exact), rel=1e-9)


@given(st.integers(1, 100_000), st.data(), CONFIDENCES)
def test_the_bound_is_clopper_and_pearsons(n: int, data: st.DataObject, confidence: float) -> None:
    hits = data.draw(st.integers(0, n))
    expected = 1.0 if hits == n else stats.beta.ppf(confidence, hits + 1, n - hits)
    assert upper_bound(hits, n, confidence) == pytest.approx(expected, rel=1e-6)


def test_bounds_of_the_largest_samples_and_confidences() -> None:
    assert upper_bound(10**9 - 1, 10**9, 1 - 2**-53) == pytest.approx(1.0)
    assert upper_bound(0, 10**9, 0.95) == pytest.approx(2.9957e-9, rel=1e-4)
    assert upper_bound(5, 5, 0.95) == 1.0


@pytest.mark.parametrize(("rate", "floor"), [(0.01, 299), (0.005, 598), (0.001, 2995), (0.0005, 5990), (0.999, 1)])
def test_the_sample_floor(rate: float, floor: int) -> None:
    assert sample_floor(rate, 0.95) == floor


@given(st.floats(1e-6, 0.99), CONFIDENCES)
def test_the_floor_is_the_smallest_sample_that_shows_the_rate_without_hits(rate: float, confidence: float) -> None:
    floor = sample_floor(rate, confidence)
    assert is_shown(0, floor, rate, confidence) or (1 - rate) ** floor == pytest.approx(1 - confidence, rel=1e-9)
    assert floor == 1 or not is_shown(0, floor - 1, rate, confidence)
