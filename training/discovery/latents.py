"""Ranks the latents of an SAE by how well their online score separates the prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.sae import Dictionary
from training.discovery.online import eligible, maximum_of, rolling_mean
from training.discovery.statistics import auroc

Floats = npt.NDArray[np.float32]
_CHUNK_ROWS = 4096
_CHUNK_LATENTS = 256


@dataclass(frozen=True)
class LatentRanking:
    """AUROC of every latent.

    Attributes:
        auroc_m: of the online score on the ranked prompts; above 0.5 the latent is higher on positives.
    """

    auroc_m: npt.NDArray[np.float64]

    def strongest(self, count: int) -> npt.NDArray[np.int64]:
        """Latents with the largest distance from 0.5 on either side."""
        return np.argsort(-np.abs(self.auroc_m - 0.5), kind="stable")[:count].astype(np.int64)

    def highest(self, count: int) -> npt.NDArray[np.int64]:
        """Latents that separate best by being higher on positives."""
        return np.argsort(-self.auroc_m, kind="stable")[:count].astype(np.int64)


def rank_latents(scores_pm: Floats, positive_p: npt.NDArray[np.bool_]) -> LatentRanking:
    """Ranks by `latent_scores` of prompts of the train split."""
    # Ranks of all latents at once would take eleven times the memory of the scores.
    chunks = range(0, scores_pm.shape[1], _CHUNK_LATENTS)
    return LatentRanking(
        np.concatenate([auroc(scores_pm[:, low : low + _CHUNK_LATENTS], positive_p) for low in chunks])
    )


def latent_scores(
    dictionary: Dictionary, rows_nd: Floats, starts_p1: npt.NDArray[np.int64], *, window: int, min_tokens: int
) -> Floats:
    """Online score of every latent on every prompt, [p, m]; -inf for a prompt shorter than `min_tokens`.

    Memory beside the result is that of a chunk of rows, however many prompts share it or however long one is.
    """
    eligible_n = eligible(starts_p1, min_tokens)
    scores_pm = np.full((len(starts_p1) - 1, dictionary.num_latents), -np.inf, np.float32)
    for low in range(0, len(eligible_n), _CHUNK_ROWS):
        high = min(low + _CHUNK_ROWS, len(eligible_n))
        first = int(np.searchsorted(starts_p1, low, side="right")) - 1
        last = int(np.searchsorted(starts_p1, high, side="left"))
        # A prompt that the chunk cuts needs the window before the cut; those rows were judged with the chunk before.
        begin = max(int(starts_p1[first]), low - window + 1)
        starts = np.clip(starts_p1[first : last + 1], begin, high) - begin
        judged_n = eligible_n[begin:high] & (np.arange(begin, high) >= low)
        means_nm = rolling_mean(dictionary.encode(rows_nd[begin:high]), starts, window)
        np.maximum(scores_pm[first:last], maximum_of(means_nm, judged_n, starts), out=scores_pm[first:last])
    return scores_pm
