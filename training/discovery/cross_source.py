"""How a probe does on sources that it was not fitted on: the honest counterpart of a figure on `val`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from training.discovery.probes import LinearProbe, SmoothedRows, fit_probe
from training.discovery.statistics import auroc

_FOLDS = 3
Strengths = Sequence[float]
Score = Callable[[LinearProbe], npt.NDArray[np.float32]]


def folds_by_source(positive_p: npt.NDArray[np.bool_], sources_p: Sequence[str]) -> list[npt.NDArray[np.bool_]]:
    """Masks of held-out prompts: every source lies in one fold, each fold holds about a third of either label.

    Empty when one label has fewer than three sources.
    """
    sources = np.array(sources_p)
    fold_of: dict[str, int] = {}
    for label in (True, False):
        names, counts = np.unique(sources[positive_p == label], return_counts=True)
        if len(names) < _FOLDS:
            return []
        sizes = [sum(int(c) for n, c in zip(names, counts, strict=True) if fold_of.get(n) == f) for f in range(_FOLDS)]
        for index in np.argsort(-counts, kind="stable"):
            if str(names[index]) not in fold_of:
                smallest = int(np.argmin(sizes))
                fold_of[str(names[index])] = smallest
                sizes[smallest] += int(counts[index])
    fold_p = np.array([fold_of[source] for source in sources_p])
    masks = [fold_p == fold for fold in range(_FOLDS)]
    return [mask for mask in masks if 0 < positive_p[mask].sum() < mask.sum()]


def choose_l2(
    rows: SmoothedRows,
    score: Score,
    strengths: Strengths,
    columns: Sequence[npt.NDArray[np.int64]] | None = None,
) -> tuple[float, float]:
    """The regularisation with the best mean AUROC over held-out sources, and that AUROC.

    Args:
        rows: training rows.
        score: online score of every training prompt under a probe.
        strengths: candidates; the middle one is taken when sources cannot be held out (AUROC is then NaN).
        columns: per fold of `folds_by_source`, the columns of `rows` that its probe may use. A choice of columns that
            looks at labels must be made anew for each fold, without the labels of its held-out sources.
    """
    folds = folds_by_source(rows.positive_p, rows.sources_p)
    if not folds:
        return strengths[len(strengths) // 2], float("nan")
    found = []
    for l2 in strengths:
        areas = []
        for fold, held_p in enumerate(folds):
            scores_p = score(_fit_on(rows.where(~held_p), l2, columns[fold] if columns else None))
            areas.append(float(auroc(scores_p[held_p, None], rows.positive_p[held_p])[0]))
        found.append((float(np.mean(areas)), l2))
    best_auroc, best = max(found)
    return best, best_auroc


def _fit_on(rows: SmoothedRows, l2: float, columns_k: npt.NDArray[np.int64] | None) -> LinearProbe:
    """A probe over all columns of `rows` whose weights outside the given ones are 0."""
    if columns_k is None:
        return fit_probe(rows, l2)
    narrow = fit_probe(dataclasses.replace(rows, means_nk=rows.means_nk[:, columns_k]), l2)
    weight_k = np.zeros(rows.means_nk.shape[1], np.float32)
    weight_k[columns_k] = narrow.weight_k
    return LinearProbe(weight_k, narrow.bias)
