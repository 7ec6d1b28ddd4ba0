"""Bounds against scipy, and the promise that they make against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binomtest, norm

from monitor.calibration.bounds import rate
from monitor.calibration.levels import LevelPath, Levels
from monitor.calibration.promise import Standing, missing_for, promise
from monitor.policy.binomial import most_hits, sample_floor, upper_bound


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 299), (3, 500), (20, 953), (7, 7), (499, 500)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_bounds_are_clopper_pearson(hits: int, n: int, confidence: float) -> None:
    found = rate(hits, n, confidence)
    interval = binomtest(hits, n).proportion_ci(confidence, "exact")
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.upper == pytest.approx(1.0 if hits == n else beta.ppf(confidence, hits + 1, n - hits), abs=1e-9)
    assert found.lower == pytest.approx(0.0 if hits == 0 else beta.ppf(1 - confidence, hits, n - hits + 1), abs=1e-9)


def test_nothing_counted_says_nothing() -> None:
    found = rate(0, 0, 0.95)
    assert (found.low, found.high, found.lower, found.upper) == (0, 1, 0, 1)
    assert np.isnan(found.share)
    with pytest.raises(ValueError, match="3 hits of 2"):
        rate(3, 2, 0.95)


@pytest.mark.parametrize(("target", "floor"), [(0.01, 299), (0.005, 598), (0.001, 2995), (0.0005, 5990)])
def test_the_floor_is_the_first_sample_that_may_have_no_hit(target: float, floor: int) -> None:
    assert sample_floor(target, 0.95) == floor
    assert most_hits(floor - 1, target, 0.95) == -1
    assert most_hits(floor, target, 0.95) == 0


@pytest.mark.parametrize("n", [299, 472, 473, 1000, 3001])
def test_most_hits_is_the_last_that_keeps_the_bound(n: int) -> None:
    hits = most_hits(n, 0.01, 0.95)
    assert upper_bound(hits, n, 0.95) <= 0.01 < upper_bound(hits + 1, n, 0.95)


@pytest.mark.parametrize("n", [299, 500, 1030])
def test_the_guarantee_covers_as_often_as_it_says(n: int) -> None:
    """The true rate of the threshold that was chosen on n scores, over 4,000 samples."""
    target, confidence = 0.01, 0.95
    rng = np.random.default_rng(n)
    hits = most_hits(n, target, confidence)
    chosen = [LevelPath(rng.normal(size=n), Levels(0.0, None, None), hits, hits).at(hits).fire for _ in range(4000)]
    kept = float(np.mean(norm.sf(chosen) <= target))
    # Exactly what the order statistic's distribution says, and that is at least the confidence.
    exact = beta.cdf(target, hits + 1, n - hits)
    assert exact >= confidence
    assert kept == pytest.approx(exact, abs=4 * np.sqrt(0.05 * 0.95 / 4000))


@pytest.mark.parametrize(
    ("hits", "n", "standing"),
    [(0, 299, Standing.KEPT), (0, 298, Standing.OPEN), (3, 300, Standing.OPEN), (12, 400, Standing.BROKEN)],
)
def test_a_promise_is_kept_open_or_broken(hits: int, n: int, standing: Standing) -> None:
    assert promise(rate(hits, n, 0.95), 0.01).standing is standing


def test_how_many_more_would_show_it() -> None:
    assert missing_for(rate(0, 100, 0.95), 0.01) == 199
    more = missing_for(rate(2, 400, 0.95), 0.01)
    assert more is not None
    total = 400 + more
    assert upper_bound(int(total * 2 / 400), total, 0.95) <= 0.01
    assert missing_for(rate(4, 400, 0.95), 0.01) is None
    assert missing_for(rate(0, 0, 0.95), 0.01) == 299
