"""Linear probes on few latents (arXiv 2305.01610), against one on the whole residual and one on the words.

The question is how much of what the residual tells about a label a handful of latents tell too. A probe that has learnt
the sources of the texts rather than the label shows in the figures on sources that were left out of its fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from training.discovery.cross_source import folds_by_source
from training.discovery.prompt import Prompt
from training.evaluation.score import Bools, Scores, Separation, mean_separation, separation

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Fit = Callable[[Rows, Rows], tuple[Scores, list[int]]]
"""From rows to fit on and rows to score: the scores, and the latents that were used."""
_DENSE_C: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_WORDS_C: Final = (1.0, 10.0, 100.0)
_CANDIDATES = 512  # latents that the L1 fit chooses among
_WORDS = 20_000
_STEPS = 2000
_FEWEST = 4  # texts of either label to fit on


@dataclass(frozen=True)
class Probe:
    """One probe's figures.

    Attributes:
        name: `latents`, `residual`, `words` or `majority`.
        k: latents used; 0 for the others.
        latents: which, when fitted on the train split; the most telling first.
        heldout: on the val split.
        unseen_sources: mean over folds in which the test sources were left out of the choice of latents and the fit;
            None where the texts have too few sources.
    """

    name: str
    k: int
    latents: list[int]
    heldout: Separation
    unseen_sources: Separation | None


def probes_on_latents(
    codes_pm: sparse.csr_array, prompts: Sequence[Prompt], ks: Sequence[int], selection: str
) -> list[Probe]:
    """A probe per k (none for a k above the number of latents).

    Args:
        codes_pm: pooled latents [p, m].
        prompts: their labels, splits and sources; both labels in both splits.
        ks: numbers of latents.
        selection: `difference`, the largest distance of class means, or `l1`, the largest weights of a logistic
            regression with an L1 penalty.
    """
    positive_p = _positive(prompts)
    chosen: dict[bytes, Rows] = {}

    def order(train: Rows) -> Rows:
        key = train.tobytes()
        if key not in chosen:
            chosen[key] = _order(codes_pm, positive_p, train, selection)
        return chosen[key]

    def fit(k: int) -> Fit:
        def run(train: Rows, test: Rows) -> tuple[Scores, list[int]]:
            latents = order(train)[:k]
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_STEPS))
            columns_pk = codes_pm[:, latents].toarray()
            model.fit(columns_pk[train], positive_p[train])
            return model.decision_function(columns_pk[test]), [int(latent) for latent in latents]

        return run

    return [_probe("latents", k, fit(k), prompts) for k in sorted(set(ks)) if k <= codes_pm.shape[1]]


def probe_on_residual(residuals_pd: Floats, prompts: Sequence[Prompt], seed: int) -> Probe:
    """L2 logistic regression on the standardised mean residual [p, d], its strength chosen within the training rows."""
    positive_p, sources = _positive(prompts), [prompt.source for prompt in prompts]

    def run(train: Rows, test: Rows) -> tuple[Scores, list[int]]:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_STEPS))
        folds = _inner_folds(positive_p[train], [sources[row] for row in train], seed)
        search = _searched(model, _DENSE_C, folds)
        search.fit(residuals_pd[train], positive_p[train])
        return search.decision_function(residuals_pd[test]), []

    return _probe("residual", 0, run, prompts)


def probe_on_words(prompts: Sequence[Prompt], seed: int) -> Probe:
    """L2 logistic regression on tf-idf weights of the texts' words: what can be had without any model."""
    positive_p, sources = _positive(prompts), [prompt.source for prompt in prompts]
    texts = np.array([prompt.text for prompt in prompts], object)

    def run(train: Rows, test: Rows) -> tuple[Scores, list[int]]:
        # One-letter words and signs too: a text may hold nothing else.
        words = TfidfVectorizer(sublinear_tf=True, max_features=_WORDS, token_pattern=r"\w+|[^\w\s]")
        model = make_pipeline(words, LogisticRegression(max_iter=_STEPS))
        folds = _inner_folds(positive_p[train], [sources[row] for row in train], seed)
        search = _searched(model, _WORDS_C, folds)
        search.fit(texts[train], positive_p[train])
        return search.decision_function(texts[test]), []

    return _probe("words", 0, run, prompts)


def majority(prompts: Sequence[Prompt]) -> Probe:
    """Calls every text by the label that is more frequent in the train split."""
    positive_p = _positive(prompts)

    def run(train: Rows, test: Rows) -> tuple[Scores, list[int]]:
        return np.full(len(test), 1.0 if positive_p[train].mean() > 0.5 else -1.0), []

    return _probe("majority", 0, run, prompts)


def outer_folds(prompts: Sequence[Prompt]) -> list[tuple[Rows, Rows]]:
    """Train rows of the train split and test rows of either, no source in both; empty where sources are too few."""
    positive_p, sources = _positive(prompts), [prompt.source for prompt in prompts]
    in_train_p = np.array([not prompt.is_val for prompt in prompts])
    folds = [
        (np.flatnonzero(in_train_p & ~held_p), np.flatnonzero(held_p))
        for held_p in folds_by_source(positive_p, sources)
    ]
    both = all(_of_each(positive_p[train]) >= _FEWEST and _of_each(positive_p[held]) >= 1 for train, held in folds)
    return folds if both else []


def _probe(name: str, k: int, fit: Fit, prompts: Sequence[Prompt]) -> Probe:
    positive_p = _positive(prompts)
    val_p = np.array([prompt.is_val for prompt in prompts])
    train, val = np.flatnonzero(~val_p), np.flatnonzero(val_p)
    scores, latents = fit(train, val)
    unseen = [separation(fit(before, held)[0], positive_p[held]) for before, held in outer_folds(prompts)]
    return Probe(name, k, latents, separation(scores, positive_p[val]), mean_separation(unseen) if unseen else None)


def _order(codes_pm: sparse.csr_array, positive_p: Bools, train: Rows, selection: str) -> Rows:
    """Latents, the most telling of the training rows first."""
    codes_nm, positive_n = codes_pm[train], positive_p[train]
    difference_m = np.abs(codes_nm[positive_n].mean(0) - codes_nm[~positive_n].mean(0))
    order = np.argsort(-difference_m, kind="stable").astype(np.int64)
    if selection == "difference":
        return order
    order = order[:_CANDIDATES]
    scaled_nj = MaxAbsScaler().fit_transform(codes_nm[:, order].toarray())
    sparse_fit = LogisticRegression(l1_ratio=1.0, solver="liblinear", C=1.0, random_state=0, max_iter=_STEPS)
    weight_j = np.abs(sparse_fit.fit(scaled_nj, positive_n).coef_[0])
    return order[np.argsort(-weight_j, kind="stable")]


def _searched(model: Any, strengths: Sequence[float], folds: Sequence[tuple[Rows, Rows]]) -> GridSearchCV:
    return GridSearchCV(model, {"logisticregression__C": strengths}, scoring="roc_auc", cv=list(folds))


def _inner_folds(positive_n: Bools, sources: Sequence[str], seed: int) -> list[tuple[Rows, Rows]]:
    """By source where there are enough of them, else three strata of either label."""
    masks = folds_by_source(positive_n, sources)
    folds = [(np.flatnonzero(~held_n), np.flatnonzero(held_n)) for held_n in masks]
    if folds and all(_of_each(positive_n[rows]) >= 1 for fold in folds for rows in fold):
        return folds
    parts = min(3, _of_each(positive_n))
    splits: Iterator[tuple[Rows, Rows]] = StratifiedKFold(parts, shuffle=True, random_state=seed).split(
        positive_n, positive_n
    )
    return list(splits)


def _of_each(positive_n: Bools) -> int:
    """Texts of the rarer label."""
    return int(min(positive_n.sum(), (~positive_n).sum()))


def _positive(prompts: Sequence[Prompt]) -> Bools:
    return np.array([prompt.is_positive for prompt in prompts])
