"""The online score of a prompt, vectorised: rolling mean over judged tokens, then the running maximum.

It repeats `rolling_mean` with `then: max` of the policy engine; the discovery checks its final policy against the
engine itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def rolling_mean(values_nk: npt.NDArray[np.floating], starts_p1: npt.NDArray[np.int64], window: int) -> Floats:
    """Mean of the last `window` rows of the same prompt (of all there are, at its beginning), [n, k]."""
    sums_n1k = np.zeros((len(values_nk) + 1, values_nk.shape[1]))
    np.cumsum(values_nk, axis=0, dtype=np.float64, out=sums_n1k[1:])
    rows_n = np.arange(len(values_nk))
    first_n = np.maximum(np.repeat(starts_p1[:-1], np.diff(starts_p1)), rows_n - window + 1)
    counts_n1 = (rows_n - first_n + 1)[:, None]
    return np.asarray((sums_n1k[rows_n + 1] - sums_n1k[first_n]) / counts_n1, np.float32)


def eligible(starts_p1: npt.NDArray[np.int64], min_tokens: int) -> npt.NDArray[np.bool_]:
    """Rows [n] at which a detector may leave clear: from the `min_tokens`-th of the prompt on."""
    rows_n = np.arange(starts_p1[-1])
    return np.asarray(rows_n - np.repeat(starts_p1[:-1], np.diff(starts_p1)) >= min_tokens - 1)


def prompt_maximum(means_nk: Floats, starts_p1: npt.NDArray[np.int64], min_tokens: int) -> Floats:
    """Highest eligible row per prompt, [p, k]; -inf for a prompt shorter than `min_tokens`."""
    return maximum_of(means_nk, eligible(starts_p1, min_tokens), starts_p1)


def maximum_of(means_nk: Floats, eligible_n: npt.NDArray[np.bool_], starts_p1: npt.NDArray[np.int64]) -> Floats:
    """Highest of the given rows per prompt, [p, k]; -inf for a prompt without any."""
    masked_nk = np.where(eligible_n[:, None], means_nk, np.float32(-np.inf))
    out_pk = np.full((len(starts_p1) - 1, means_nk.shape[1]), -np.inf, np.float32)
    full_p = np.diff(starts_p1) > 0
    if full_p.any():
        out_pk[full_p] = np.maximum.reduceat(masked_nk, starts_p1[:-1][full_p], axis=0)
    return out_pk


def prompt_scores(
    token_scores_n: npt.NDArray[np.floating], starts_p1: npt.NDArray[np.int64], window: int, min_tokens: int
) -> Floats:
    """Score per prompt [p] of one detector."""
    return prompt_maximum(rolling_mean(token_scores_n[:, None], starts_p1, window), starts_p1, min_tokens)[:, 0]
