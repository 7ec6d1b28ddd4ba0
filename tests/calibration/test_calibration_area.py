"""Areas, curves and histograms against other computations of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from monitor.calibration.area import area, histogram, roc


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_mann_whitneys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Rounded, so that there are ties; and some that were not judged.
    benign, harmful = np.round(rng.normal(size=300), 1), np.round(rng.normal(1, 1, 150), 1)
    benign[:5] = -np.inf
    found = area(benign, harmful, 0.95, 50)
    assert found is not None
    assert found.value == pytest.approx(mannwhitneyu(harmful, benign).statistic / (300 * 150))
    assert found == area(benign, harmful, 0.95, 50)


def test_the_interval_is_about_as_wide_as_the_spread_over_samples() -> None:
    def drawn(seed: int) -> float:
        rng = np.random.default_rng(seed)
        return _value(rng.normal(size=400), rng.normal(1.2, 1, 200))

    values = np.array([drawn(seed) for seed in range(400)])
    rng = np.random.default_rng(999)
    found = area(rng.normal(size=400), rng.normal(1.2, 1, 200), 0.95, 800)
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std(), rel=0.25)
    assert found.low < found.value < found.high


def _value(benign: np.ndarray, harmful: np.ndarray) -> float:
    found = area(benign, harmful, 0.95, 1)
    assert found is not None
    return found.value


def test_without_one_of_the_labels_there_is_no_area() -> None:
    assert area(np.zeros(3), np.zeros(0), 0.95, 10) is None
    assert area(np.zeros(0), np.zeros(3), 0.95, 10) is None


def test_the_curve_is_what_thresholds_give() -> None:
    rng = np.random.default_rng(1)
    benign, harmful = rng.normal(size=40), rng.normal(1, 1, 30)
    points = roc(benign, harmful)
    expected = {
        (float((benign >= threshold).mean()), float((harmful >= threshold).mean())) for threshold in [*benign, *harmful]
    }
    assert points[0] == (0.0, 0.0)
    assert points[-1] == (1.0, 1.0)
    assert {(round(x, 9), round(y, 9)) for x, y in points[1:]} == {(round(x, 9), round(y, 9)) for x, y in expected}


def test_a_long_curve_keeps_its_ends() -> None:
    rng = np.random.default_rng(1)
    points = roc(rng.normal(size=5000), rng.normal(1, 1, 5000))
    assert len(points) <= 241
    assert points[-1] == (1.0, 1.0)


def test_shares_of_a_histogram_are_of_all_generations() -> None:
    found = histogram(np.array([0.0, 1.0, 2.0, -np.inf]), np.array([3.0]), [5.0])
    assert sum(found.benign) == pytest.approx(0.75)
    assert found.harmful is not None
    assert sum(found.harmful) == pytest.approx(1.0)
    assert (found.edges[0], found.edges[-1]) == (0.0, 5.0)
    assert histogram(np.array([2.0, 2.0]), np.zeros(0), [2.0]).harmful is None
