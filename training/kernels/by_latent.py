"""The active entries of a batch, sorted by row, in the order of their latents."""

from __future__ import annotations

import numpy as np

from training.kernels.compiled import Ints, Longs, compiled


@compiled
def by_latent(starts: Longs, latents: Ints, m: int) -> tuple[Longs, Ints, Ints]:
    """Counting sort: where each latent's entries begin [m + 1], their rows [a] and their places among the given [a]."""
    latent_starts = np.zeros(m + 1, np.int64)
    for a in range(len(latents)):
        latent_starts[latents[a] + 1] += 1
    for j in range(m):
        latent_starts[j + 1] += latent_starts[j]
    at = latent_starts[:-1].copy()
    rows = np.empty(len(latents), np.int32)
    order = np.empty(len(latents), np.int32)
    for i in range(len(starts) - 1):
        for a in range(starts[i], starts[i + 1]):
            j = latents[a]
            rows[at[j]] = i
            order[at[j]] = a
            at[j] += 1
    return latent_starts, rows, order
