"""How well scores tell two labels apart, with intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from training.evaluation.figure import CONFIDENCE, RESAMPLES, Figure

Bools = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Separation:
    """AUROC and accuracy (at the probe's own threshold) of a probe on texts that it was not fitted on."""

    auroc: Figure
    accuracy: Figure


def separation(scores_p: Scores, positive_p: Bools) -> Separation:
    """Figures of logits [p]: AUROC with a bootstrap within either label, accuracy with Wilson's interval."""
    right = int(((scores_p > 0) == positive_p).sum())
    interval = stats.binomtest(right, len(positive_p)).proportion_ci(CONFIDENCE, "wilson")
    accuracy = Figure(right / len(positive_p), float(interval.low), float(interval.high), len(positive_p))
    return Separation(_auroc(scores_p[positive_p], scores_p[~positive_p]), accuracy)


def mean_separation(parts: Sequence[Separation]) -> Separation:
    """The mean over folds; the interval takes their sampling errors as independent and normal."""
    return Separation(_mean([part.auroc for part in parts]), _mean([part.accuracy for part in parts]))


def _mean(parts: Sequence[Figure]) -> Figure:
    value = float(np.mean([part.value for part in parts]))
    n = sum(part.n for part in parts)
    if any(part.low is None or part.high is None for part in parts):
        return Figure(value, None, None, n)
    halves = [(part.high - part.low) / 2 for part in parts if part.high is not None and part.low is not None]
    half = math.sqrt(sum(each**2 for each in halves)) / len(parts)
    return Figure(value, max(0.0, value - half), min(1.0, value + half), n)


def _auroc(positives_p: Scores, negatives_n: Scores) -> Figure:
    n = len(positives_p) + len(negatives_n)
    value = float(_area(positives_p, negatives_n))
    if min(len(positives_p), len(negatives_n)) < 2:
        return Figure(value, None, None, n)
    with warnings.catch_warnings():
        # A perfect probe, or one that gives every text the same score: the interval is then that very value.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (positives_p, negatives_n),
            _area,
            n_resamples=RESAMPLES,
            batch=50,
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return Figure(value, float(interval.low), float(interval.high), n)


def _area(positives_p: Scores, negatives_n: Scores, axis: int = -1) -> Any:
    """Area under the ROC curve along the last axis; ties count half (Mann-Whitney)."""
    count, others = positives_p.shape[-1], negatives_n.shape[-1]
    ranks = stats.rankdata(np.concatenate([positives_p, negatives_n], axis=-1), axis=axis)
    return (ranks[..., :count].sum(-1) - count * (count + 1) / 2) / (count * others)
