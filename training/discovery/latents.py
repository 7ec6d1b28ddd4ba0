"""Ranks the latents of an SAE by how well their online score separates the prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.sae import Dictionary
from training.discovery.online import prompt_maximum, rolling_mean
from training.discovery.statistics import auroc

Floats = npt.NDArray[np.float32]
_CHUNK_PROMPTS = 256


@dataclass(frozen=True)
class LatentRanking:
    """AUROC of every latent.

    Attributes:
        auroc_m: of the online score on the ranked prompts; above 0.5 the latent is higher on positives.
        fired_share_m: share of these prompts on which the latent fired at all.
    """

    auroc_m: npt.NDArray[np.float64]
    fired_share_m: npt.NDArray[np.float64]

    def strongest(self, count: int) -> npt.NDArray[np.int64]:
        """Latents with the largest distance from 0.5 on either side."""
        return np.argsort(-np.abs(self.auroc_m - 0.5), kind="stable")[:count].astype(np.int64)

    def highest(self, count: int) -> npt.NDArray[np.int64]:
        """Latents that separate best by being higher on positives."""
        return np.argsort(-self.auroc_m, kind="stable")[:count].astype(np.int64)


def rank_latents(scores_pm: Floats, positive_p: npt.NDArray[np.bool_]) -> LatentRanking:
    """Ranks by `latent_scores` of prompts of the train split."""
    return LatentRanking(auroc(scores_pm, positive_p), (scores_pm > 0).mean(0))


def latent_scores(
    dictionary: Dictionary, rows_nd: Floats, starts_p1: npt.NDArray[np.int64], *, window: int, min_tokens: int
) -> Floats:
    """Online score of every latent on every prompt, [p, m]."""
    prompts = len(starts_p1) - 1
    scores_pm = np.empty((prompts, dictionary.num_latents), np.float32)
    for first in range(0, prompts, _CHUNK_PROMPTS):
        last = min(first + _CHUNK_PROMPTS, prompts)
        low, high = starts_p1[first], starts_p1[last]
        f_nm = dictionary.encode(rows_nd[low:high])
        starts = starts_p1[first : last + 1] - low
        scores_pm[first:last] = prompt_maximum(rolling_mean(f_nm, starts, window), starts, min_tokens)
    return scores_pm
