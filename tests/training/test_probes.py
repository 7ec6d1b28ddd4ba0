"""Probe fitting: pooled logistic regression, source weights, and the check on unseen sources."""

from __future__ import annotations

import numpy as np
import pytest

from training.discovery.cross_source import choose_l2
from training.discovery.probes import LinearProbe, SmoothedRows, fit_probe, sample_rows, source_weights


def _rows(x_nk: np.ndarray, prompts_n: np.ndarray, positive_p: np.ndarray, sources_p: list[str]) -> SmoothedRows:
    return SmoothedRows(x_nk.astype(np.float32), prompts_n, positive_p, tuple(sources_p))


def test_weights_balance_labels_and_dampen_large_sources() -> None:
    positive_p = np.array([True] * 20 + [False] * 80)
    sources = ["small"] * 4 + ["large"] * 16 + ["other"] * 80
    weights = source_weights(positive_p, sources)
    assert weights[positive_p].sum() == pytest.approx(weights[~positive_p].sum())
    assert weights.mean() == pytest.approx(1.0)
    # Four times as many prompts count twice as much in sum.
    assert weights[4:20].sum() / weights[:4].sum() == pytest.approx(2.0)


def test_the_largest_row_of_a_prompt_decides() -> None:
    """One telling row among many plain ones is enough, wherever it stands."""
    rng = np.random.default_rng(0)
    prompts_n = np.repeat(np.arange(200), 8)
    positive_p = np.arange(200) % 2 == 0
    x_nk = rng.normal(0, 1, (1600, 5))
    for prompt in np.flatnonzero(positive_p):
        x_nk[8 * prompt + rng.integers(8), 3] += 6
    probe = fit_probe(_rows(x_nk, prompts_n, positive_p, ["s"] * 200), 1e-3)
    assert int(np.argmax(np.abs(probe.weight_k))) == 3
    best_p = probe.scores(x_nk.astype(np.float32)).reshape(200, 8).max(1)
    assert best_p[positive_p].min() > np.quantile(best_p[~positive_p], 0.9)


def test_what_only_names_the_source_is_worth_nothing_on_unseen_sources() -> None:
    """Each source has a mark of its own: fitted with it, a probe is perfect; without it, blind."""
    rng = np.random.default_rng(0)
    source_p = np.arange(600) % 6
    positive_p = source_p < 3
    x_nk = rng.normal(0, 0.1, (600, 6))
    x_nk[np.arange(600), source_p] += 1
    rows = _rows(x_nk, np.arange(600), positive_p, [f"s{number}" for number in source_p])

    def score(probe: LinearProbe) -> np.ndarray:
        return probe.scores(rows.means_nk)

    assert ((score(fit_probe(rows, 1e-3)) > 0) == positive_p).all()
    _, unseen = choose_l2(rows, score, (1e-3, 1e-2))
    assert 0.2 < unseen < 0.8


def test_rows_are_sampled_from_the_first_that_may_count_to_the_last() -> None:
    chosen = sample_rows(np.array([0, 20, 22, 22]), min_tokens=4, most=3)
    assert chosen.tolist() == [3, 11, 19, 21]
