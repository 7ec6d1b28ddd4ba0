"""Whether the latents of a dictionary that fire on rows of one engine fire on those of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.sae import Dictionary

Floats = npt.NDArray[np.float32]
_CHUNK_ROWS = 1024
_TINY = 1e-30


@dataclass(frozen=True)
class LatentFigures:
    """Of one dictionary.

    Attributes:
        l0_reference, l0_engine: active latents per row.
        jaccard: of the two sets of active latents, mean over rows; two empty sets agree.
        jaccard_p1: the row that 99 % are not below.
        kept: share of all firings of the reference that are there in the engine.
        magnitude_error: ``|g - f| / f`` of latents that fire in both, mean, weighted by f.
        fvu_reference, fvu_engine: unexplained variance of each engine's rows by the dictionary.
    """

    l0_reference: float
    l0_engine: float
    jaccard: float
    jaccard_p1: float
    kept: float
    magnitude_error: float
    fvu_reference: float
    fvu_engine: float


class LatentDifference:
    """Collects rows in chunks."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._jaccards: list[npt.NDArray[np.float64]] = []
        # Firings of reference, engine and both; values of the reference where both fire, and the difference there.
        self._fired_3 = np.zeros(3, np.int64)
        self._shared_value, self._shared_difference = 0.0, 0.0
        self._squared_error_2 = np.zeros(2)
        self._sums_2d = np.zeros((2, dictionary.width))
        self._squares_2 = np.zeros(2)
        self._rows = 0

    def add(self, reference_nd: Floats, engine_nd: Floats) -> None:
        for start in range(0, len(reference_nd), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            self._add(reference_nd[part], engine_nd[part])

    def _add(self, reference_nd: Floats, engine_nd: Floats) -> None:
        f_nm, g_nm = self._dictionary.encode(reference_nd), self._dictionary.encode(engine_nd)
        both_nm = (f_nm != 0) & (g_nm != 0)
        either_n = ((f_nm != 0) | (g_nm != 0)).sum(axis=1)
        both_n = both_nm.sum(axis=1)
        self._jaccards.append(np.where(either_n > 0, both_n / np.maximum(either_n, 1), 1.0))
        self._fired_3 += np.array([np.count_nonzero(f_nm), np.count_nonzero(g_nm), int(both_n.sum())], np.int64)
        self._shared_value += float(np.abs(f_nm[both_nm]).sum(dtype=np.float64))
        self._shared_difference += float(np.abs(g_nm[both_nm] - f_nm[both_nm]).sum(dtype=np.float64))
        for index, (rows_nd, codes_nm) in enumerate(((reference_nd, f_nm), (engine_nd, g_nm))):
            rest_nd = rows_nd.astype(np.float64) - self._dictionary.decode(codes_nm)
            self._squared_error_2[index] += float((rest_nd**2).sum())
            self._sums_2d[index] += rows_nd.sum(axis=0, dtype=np.float64)
            self._squares_2[index] += float((rows_nd.astype(np.float64) ** 2).sum())
        self._rows += len(f_nm)

    def figures(self) -> LatentFigures | None:
        """None when there were no rows."""
        if not self._rows:
            return None
        jaccard_n = np.concatenate(self._jaccards)
        variance_2 = self._squares_2 - (self._sums_2d**2).sum(axis=1) / self._rows
        fvu_2 = self._squared_error_2 / np.maximum(variance_2, _TINY)
        fired, fired_engine, fired_both = self._fired_3.tolist()
        return LatentFigures(
            l0_reference=fired / self._rows,
            l0_engine=fired_engine / self._rows,
            jaccard=float(jaccard_n.mean()),
            jaccard_p1=float(np.quantile(jaccard_n, 0.01)),
            kept=fired_both / max(fired, 1),
            magnitude_error=self._shared_difference / max(self._shared_value, _TINY),
            fvu_reference=float(fvu_2[0]),
            fvu_engine=float(fvu_2[1]),
        )
