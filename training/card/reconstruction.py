"""How well a dictionary reconstructs residual rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.sae import Dictionary

Floats = npt.NDArray[np.float32]
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Reconstruction:
    """Figures over a set of rows.

    Attributes:
        rows: how many.
        explained_variance: 1 - squared error / squared distance from the mean, over all rows and dimensions.
        l0: active latents per row.
        silent_share: latents that fired on none of the rows.
        density_quantiles: firing rate of the latents at the quantiles 0.01, 0.1, 0.5, 0.9, 0.99.
    """

    rows: int
    explained_variance: float
    l0: float
    silent_share: float
    density_quantiles: tuple[float, ...]


def measure_reconstruction(dictionary: Dictionary, rows_nd: Floats) -> Reconstruction:
    """Figures on `rows_nd` [n, d]."""
    fired_m = np.zeros(dictionary.num_latents, np.int64)
    error = 0.0
    for start in range(0, len(rows_nd), _CHUNK_ROWS):
        chunk_nd = rows_nd[start : start + _CHUNK_ROWS]
        f_nm = dictionary.encode(chunk_nd)
        fired_m += np.count_nonzero(f_nm, axis=0)
        error += float(np.square(dictionary.decode(f_nm) - chunk_nd, dtype=np.float64).sum())
    mean_d = rows_nd.mean(0, dtype=np.float64)
    variance = sum(
        float(np.square(rows_nd[start : start + _CHUNK_ROWS] - mean_d).sum())
        for start in range(0, len(rows_nd), _CHUNK_ROWS)
    )
    density_m = fired_m / len(rows_nd)
    return Reconstruction(
        rows=len(rows_nd),
        explained_variance=1 - error / variance,
        l0=float(fired_m.sum() / len(rows_nd)),
        silent_share=float((fired_m == 0).mean()),
        density_quantiles=tuple(float(value) for value in np.quantile(density_m, (0.01, 0.1, 0.5, 0.9, 0.99))),
    )
