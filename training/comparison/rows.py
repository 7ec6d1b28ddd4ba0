"""How far rows of one engine are from those of the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_TINY: Final = 1e-30


@dataclass(frozen=True)
class RowFigures:
    """Of rows x of the reference and y of the other engine at the same positions.

    Attributes:
        rows: how many.
        error_median, error_p99, error_max: relative errors ``|y - x| / |x|``, 2-norms per row.
        cosine_median, cosine_min: of x and y.
        norm_ratio_median, norm_ratio_p1, norm_ratio_p99: ``|y| / |x|``.
        fvu_of_reference: unexplained variance of x if y is taken for it, ``sum |y - x|^2 / sum |x - mean x|^2``.
        fvu_of_engine: of y if x is taken for it.
    """

    rows: int
    error_median: float
    error_p99: float
    error_max: float
    cosine_median: float
    cosine_min: float
    norm_ratio_median: float
    norm_ratio_p1: float
    norm_ratio_p99: float
    fvu_of_reference: float
    fvu_of_engine: float


class RowDifference:
    """Collects rows in chunks; keeps three numbers per row and sums."""

    def __init__(self, width: int) -> None:
        self._errors: list[npt.NDArray[np.float64]] = []
        self._cosines: list[npt.NDArray[np.float64]] = []
        self._ratios: list[npt.NDArray[np.float64]] = []
        self._squared_error = 0.0
        # Sum and squared norm of reference and engine.
        self._sums_2d = np.zeros((2, width))
        self._squares_2 = np.zeros(2)

    def add(self, reference_nd: Floats, engine_nd: Floats) -> npt.NDArray[np.float64]:
        """Returns the relative errors [n]."""
        x_nd, y_nd = reference_nd.astype(np.float64), engine_nd.astype(np.float64)
        x_n, y_n = np.linalg.norm(x_nd, axis=1), np.linalg.norm(y_nd, axis=1)
        distance_n = np.linalg.norm(y_nd - x_nd, axis=1)
        error_n: npt.NDArray[np.float64] = distance_n / np.maximum(x_n, _TINY)
        self._errors.append(error_n)
        self._cosines.append((x_nd * y_nd).sum(axis=1) / np.maximum(x_n * y_n, _TINY))
        self._ratios.append(y_n / np.maximum(x_n, _TINY))
        self._squared_error += float((distance_n**2).sum())
        self._sums_2d += np.stack([x_nd.sum(axis=0), y_nd.sum(axis=0)])
        self._squares_2 += [float((x_n**2).sum()), float((y_n**2).sum())]
        return error_n

    def figures(self) -> RowFigures | None:
        """None when there were no rows."""
        rows = sum(map(len, self._errors))
        if not rows:
            return None
        error_n, cosine_n, ratio_n = map(np.concatenate, (self._errors, self._cosines, self._ratios))
        variance_2 = self._squares_2 - (self._sums_2d**2).sum(axis=1) / rows
        fvu_2 = self._squared_error / np.maximum(variance_2, _TINY)
        return RowFigures(
            rows=rows,
            error_median=float(np.median(error_n)),
            error_p99=float(np.quantile(error_n, 0.99)),
            error_max=float(error_n.max()),
            cosine_median=float(np.median(cosine_n)),
            cosine_min=float(cosine_n.min()),
            norm_ratio_median=float(np.median(ratio_n)),
            norm_ratio_p1=float(np.quantile(ratio_n, 0.01)),
            norm_ratio_p99=float(np.quantile(ratio_n, 0.99)),
            fvu_of_reference=float(fvu_2[0]),
            fvu_of_engine=float(fvu_2[1]),
        )
