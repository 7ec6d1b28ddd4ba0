"""A measured figure with its sample size and a bootstrap interval."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

Sums = npt.NDArray[np.float64]
CONFIDENCE: Final = 0.95
RESAMPLES: Final = 1000


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        value: the figure; NaN where it cannot be computed (nothing in the sample).
        low, high: 95 % interval, None where the sample has a single part.
        n: rows, tokens or texts that it was measured on.
    """

    value: float
    low: float | None
    high: float | None
    n: int


def bootstrapped(statistic: Callable[..., Any], sums: Sequence[Sums], n: int) -> Figure:
    """A statistic of sums over sequences, with a percentile bootstrap over the sequences.

    Tokens of one sequence resemble each other, so whole sequences are drawn, not tokens (the cluster bootstrap).

    Args:
        statistic: of as many totals as there are `sums`; must take arrays.
        sums: per quantity, its sum in each sequence, [s].
        n: sample size to state.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*(column.sum() for column in sums)))
        if len(sums[0]) < 2 or not np.isfinite(value):
            return Figure(value, None, None, n)

        def of_resamples(*drawn: Sums, axis: int = -1) -> Any:
            return statistic(*(column.sum(axis) for column in drawn))

        with warnings.catch_warnings():
            # Every sequence has the same figure: the interval is then that very value.
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            interval = stats.bootstrap(
                tuple(sums),
                of_resamples,
                n_resamples=RESAMPLES,
                batch=100,
                paired=True,
                vectorized=True,
                confidence_level=CONFIDENCE,
                method="percentile",
                rng=np.random.default_rng(0),
            ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return Figure(value, low, high, n) if np.isfinite(low) and np.isfinite(high) else Figure(value, None, None, n)


def mean_figure(sums: Sums, counts: Sums) -> Figure:
    """The mean over rows, from sums and numbers of rows per sequence [s]."""
    return bootstrapped(lambda total, count: total / count, [sums, counts], int(counts.sum()))
