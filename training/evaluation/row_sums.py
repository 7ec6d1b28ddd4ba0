"""Sums over residual rows from which every figure of the reconstruction follows, kept per sequence.

Rows may come in chunks of any size; only sums are kept. Sequences are gathered in at most `BLOCKS` blocks, which are
the units of the bootstrap.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from training.harvest.tokens import Reason

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]

BLOCKS: Final = 512
BAND_EDGES: Final = (0.5, 0.8, 1.25, 2.0)
"""Multiples of the median norm at which a norm band ends; outliers are a band of their own."""
STRATA: Final = ("kept", "outlier", "excluded")
"""Rows that the dictionary is meant for, content rows of too large a norm, and BOS, special and template positions."""
QUANTITIES: Final = ("rows", "error", "shifted", "cosine", "norm_ratio", "output", "inner", "l0", "l1")


class RowSums:
    """Sums of one dictionary.

    Attributes:
        sums_qcs: float64 [quantity, stratum, block]: rows; squared error; squared distance from `center_d`; cosine and
            norm ratio of reconstruction and row; squared norm of the reconstruction; inner product of both; active
            latents; sum of their magnitudes.
        shifts_csd: float64 [stratum, block, d], sums of ``x - center``.
        bands_qk: float64 [quantity, band], content rows by norm, the last band the outliers.
        band_shifts_kd: float64 [band, d].
    """

    def __init__(self, width: int, median_norm: float) -> None:
        self.median_norm = median_norm
        self.sums_qcs = np.zeros((len(QUANTITIES), len(STRATA), BLOCKS))
        self.shifts_csd = np.zeros((len(STRATA), BLOCKS, width))
        bands = len(BAND_EDGES) + 2
        self.bands_qk = np.zeros((len(QUANTITIES), bands))
        self.band_shifts_kd = np.zeros((bands, width))
        self._center_d: Sums | None = None

    @property
    def center_d(self) -> Sums:
        """A point near the mean: distances are summed from it because it is known before the mean is."""
        return np.zeros(self.shifts_csd.shape[2]) if self._center_d is None else self._center_d

    def add(
        self,
        rows_nd: Floats,
        reconstruction_nd: Floats,
        codes_nm: Floats,
        reasons_n: npt.NDArray[np.uint8],
        sequences_n: npt.NDArray[np.int64],
    ) -> None:
        """Adds rows [n, d] with their reconstruction, latents [n, m], reasons and the number of their sequence."""
        if not len(rows_nd):
            return
        if self._center_d is None:
            finite_n = np.isfinite(rows_nd).all(axis=1)
            if finite_n.any():
                self._center_d = rows_nd[finite_n].mean(0, dtype=np.float64)
        shifted_nd = rows_nd - self.center_d
        quantities_qn = _quantities(rows_nd, reconstruction_nd, codes_nm, shifted_nd)
        stratum_n = np.where(reasons_n == Reason.KEPT, 0, np.where(reasons_n == Reason.OUTLIER, 1, 2))
        cell_n = stratum_n * BLOCKS + sequences_n % BLOCKS
        cells = len(STRATA) * BLOCKS
        self.sums_qcs += np.reshape(
            [np.bincount(cell_n, values_n, cells) for values_n in quantities_qn], self.sums_qcs.shape
        )
        _add_rows(self.shifts_csd.reshape(cells, -1), cell_n, shifted_nd)
        band_n = np.searchsorted(np.array(BAND_EDGES) * self.median_norm, np.linalg.norm(rows_nd, axis=1), "right")
        band_n[stratum_n == 1] = len(BAND_EDGES) + 1
        content_n = stratum_n < 2
        bands = self.bands_qk.shape[1]
        self.bands_qk += [np.bincount(band_n[content_n], values_n[content_n], bands) for values_n in quantities_qn]
        _add_rows(self.band_shifts_kd, band_n[content_n], shifted_nd[content_n])

    def mean_d(self) -> Floats:
        """Mean of the kept rows, [d]."""
        rows = self.sums_qcs[0, 0].sum()
        return np.asarray(self.center_d + self.shifts_csd[0].sum(0) / max(rows, 1), np.float32)


def _quantities(rows_nd: Floats, reconstruction_nd: Floats, codes_nm: Floats, shifted_nd: Sums) -> list[Sums]:
    """One value per row, [n] each, in the order of `QUANTITIES`."""
    error_nd = reconstruction_nd.astype(np.float64) - rows_nd
    norm_n = np.linalg.norm(rows_nd.astype(np.float64), axis=1)
    output_n = np.linalg.norm(reconstruction_nd.astype(np.float64), axis=1)
    inner_n = np.einsum("nd,nd->n", rows_nd, reconstruction_nd, dtype=np.float64)
    tiny = np.finfo(np.float64).tiny
    return [
        np.ones(len(rows_nd)),
        np.square(error_nd).sum(1),
        np.square(shifted_nd).sum(1),
        inner_n / np.maximum(norm_n * output_n, tiny),
        output_n / np.maximum(norm_n, tiny),
        np.square(output_n),
        inner_n,
        np.count_nonzero(codes_nm, axis=1).astype(np.float64),
        np.abs(codes_nm).sum(1, dtype=np.float64),
    ]


def _add_rows(sums_cd: Sums, cell_n: npt.NDArray[np.int64], values_nd: Sums) -> None:
    """Adds each row to the sum of its cell; a slice a cell, because `np.add.at` takes an element at a time."""
    order_n = np.argsort(cell_n, kind="stable")
    cells, starts = np.unique(cell_n[order_n], return_index=True)
    if len(cells):
        sums_cd[cells] += np.add.reduceat(values_nd[order_n], starts, axis=0)
