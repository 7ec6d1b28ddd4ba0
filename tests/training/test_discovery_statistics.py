"""Online scores, AUROC, thresholds, exact bounds and folds, by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.discovery.cross_source import folds_by_source
from training.discovery.online import prompt_scores, rolling_mean
from training.discovery.statistics import auroc, false_alarms, threshold_for


def test_rolling_mean_and_prompt_score_by_hand() -> None:
    scores = np.array([1, 5, 3, 9, 2, 4, 6], np.float32)
    starts = np.array([0, 4, 4, 7])
    means = rolling_mean(scores[:, None], starts, 2)[:, 0]
    np.testing.assert_allclose(means, [1, 3, 4, 6, 2, 3, 5])
    np.testing.assert_allclose(prompt_scores(scores, starts, 2, 1), [6, -np.inf, 5])
    np.testing.assert_allclose(prompt_scores(scores, starts, 2, 4), [6, -np.inf, -np.inf])


def test_auroc_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, (200, 3)).astype(float), rng.random(200) < 0.3
    expected = [roc_auc_score(positive, scores[:, column]) for column in range(3)]
    np.testing.assert_allclose(auroc(scores, positive), expected)


@pytest.mark.parametrize("hits", [0, 1, 7])
def test_threshold_lets_at_most_so_many_through(hits: int) -> None:
    scores = np.random.default_rng(0).normal(size=500)
    assert int((scores >= threshold_for(scores, hits)).sum()) == hits
    tied = np.array([1.0, 1.0, 1.0, 0.0])
    assert int((tied >= threshold_for(tied, min(hits, 2))).sum()) == 0


def test_clopper_pearson_bound() -> None:
    """With no hit in 299 the rate is below 1 % with 95 % confidence: the rule of the binomial tail."""
    assert false_alarms(np.zeros(299, bool), 0.95).upper < 0.01 < false_alarms(np.zeros(298, bool), 0.95).upper
    assert false_alarms(np.ones(5, bool), 0.95).upper == 1.0
    some = false_alarms(np.arange(100) < 3, 0.95)
    assert (some.hits, some.n) == (3, 100)
    assert some.upper == pytest.approx(0.0757, abs=1e-3)


def test_folds_hold_out_whole_sources() -> None:
    sources = [f"s{number % 7}" for number in range(70)]
    positive = np.array([int(source[1]) < 4 for source in sources])
    folds = folds_by_source(positive, sources)
    assert len(folds) == 3
    assert (np.sum(folds, axis=0) == 1).all()
    for mask in folds:
        inside = {source for source, held in zip(sources, mask, strict=True) if held}
        assert not inside & {source for source, held in zip(sources, mask, strict=True) if not held}
    assert folds_by_source(positive, ["one"] * 70) == []
