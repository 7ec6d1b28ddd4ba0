"""What a whole dictionary says of residual rows: their strongest latents, how many are active, what is left over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.sae.dictionary import Dictionary

TOP: Final = 16
# Latents of one chunk of rows; the mask and the reconstruction beside them are smaller.
CHUNK_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class TopLatents:
    """n rows, k latents of each.

    Attributes:
        latents_nk: int64, the strongest first; the lower index where two are equal.
        activations_nk: float32; 0 from the first latent on that is not active.
        active_n: int64, active latents in all (L0).
        error_n: float32, ``|x - x_hat|^2 / |x|^2``; 0 for a row of zeros.
    """

    latents_nk: npt.NDArray[np.int64]
    activations_nk: npt.NDArray[np.float32]
    active_n: npt.NDArray[np.int64]
    error_n: npt.NDArray[np.float32]


def top_latents(dictionary: Dictionary, x_nd: npt.NDArray[np.float32], top: int = TOP) -> TopLatents:
    """Encodes the full dictionary and decodes it again, in chunks of rows of at most `CHUNK_BYTES` (but one row).

    Args:
        x_nd: finite residual rows [n, d].
        top: at most so many latents per row.
    """
    rows = max(CHUNK_BYTES // (4 * dictionary.num_latents), 1)
    chunks = [_chunk(dictionary, x_nd[at : at + rows], top) for at in range(0, max(len(x_nd), 1), rows)]
    return TopLatents(
        latents_nk=np.concatenate([chunk.latents_nk for chunk in chunks]),
        activations_nk=np.concatenate([chunk.activations_nk for chunk in chunks]),
        active_n=np.concatenate([chunk.active_n for chunk in chunks]),
        error_n=np.concatenate([chunk.error_n for chunk in chunks]),
    )


def _chunk(dictionary: Dictionary, x_nd: npt.NDArray[np.float32], top: int) -> TopLatents:
    f_nm = dictionary.encode(x_nd)
    k = min(top, dictionary.num_latents)
    left_nd = dictionary.decode(f_nm, x_nd)
    left_nd -= x_nd
    norm_n = np.einsum("nd,nd->n", x_nd, x_nd, dtype=np.float64)
    error_n = np.einsum("nd,nd->n", left_nd, left_nd, dtype=np.float64) / np.where(norm_n > 0, norm_n, np.inf)
    # A partition leaves the order among equals open: ties are put in the order of their indices by hand.
    least_n = np.partition(f_nm, -k, axis=1)[:, -k]
    latents_nk = np.empty((len(x_nd), k), np.int64)
    for row, least in enumerate(least_n):
        candidates = np.flatnonzero(f_nm[row] >= least) if least > 0 else _active_first(f_nm[row], k)
        latents_nk[row] = candidates[np.argsort(-f_nm[row, candidates], kind="stable")][:k]
    return TopLatents(
        latents_nk=latents_nk,
        activations_nk=np.take_along_axis(f_nm, latents_nk, axis=1),
        active_n=np.count_nonzero(f_nm, axis=1),
        error_n=error_n.astype(np.float32),
    )


def _active_first(f_m: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Indices of all active latents, fewer than `k`, filled up with inactive ones."""
    active = np.flatnonzero(f_m)
    return np.concatenate([active, np.flatnonzero(f_m == 0)[: k - active.size]])
