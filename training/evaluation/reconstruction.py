"""How well rows are reconstructed, from `RowSums`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation.figure import Figure, Sums, bootstrapped, mean_figure
from training.evaluation.row_sums import BAND_EDGES, QUANTITIES, STRATA, RowSums


@dataclass(frozen=True)
class Reconstruction:
    """Figures over a set of rows.

    Attributes:
        rows: how many.
        fvu: squared error over the squared distance from the rows' mean, summed over rows and dimensions.
        explained_variance: ``1 - fvu``.
        mse: squared error per row, summed over dimensions.
        cosine: mean cosine of row and reconstruction.
        norm_ratio: mean of the reconstruction's norm over the row's; below 1 it shrinks.
        bias: relative reconstruction bias ``E|x_hat|^2 / E[x . x_hat]`` (arXiv 2404.16014, eq. 10); 1 is unbiased.
        l0: active latents per row.
        l1: sum of the latents' magnitudes per row.
    """

    rows: int
    fvu: Figure
    explained_variance: Figure
    mse: Figure
    cosine: Figure
    norm_ratio: Figure
    bias: Figure
    l0: Figure
    l1: Figure


@dataclass(frozen=True)
class NormBand:
    """Content rows whose norm lies between two multiples of the median norm.

    Attributes:
        name: of the band.
        low, high: its ends in the residual's units; None where it is open.
        rows: how many.
        fvu: their squared error over their squared distance from the mean of all content rows; NaN without rows.
        cosine: mean cosine of row and reconstruction.
    """

    name: str
    low: float | None
    high: float | None
    rows: int
    fvu: float
    cosine: float


def reconstruction_of(sums: RowSums, strata: Sequence[str] = ("kept",)) -> Reconstruction:
    """Figures over the rows of the given strata (see `STRATA`)."""
    chosen = [STRATA.index(name) for name in strata]
    by_quantity = dict(zip(QUANTITIES, sums.sums_qcs[:, chosen].sum(1), strict=True))
    used_s = by_quantity["rows"] > 0
    by_quantity = {name: values_s[used_s] for name, values_s in by_quantity.items()}
    rows_s = by_quantity["rows"]
    rows = int(rows_s.sum())
    distance_s = _distances(by_quantity["shifted"], rows_s, sums.shifts_csd[chosen].sum(0)[used_s])
    error_s = by_quantity["error"]
    return Reconstruction(
        rows=rows,
        fvu=bootstrapped(_share, [error_s, distance_s], rows),
        explained_variance=bootstrapped(
            lambda error, distance: 1 - _share(error, distance), [error_s, distance_s], rows
        ),
        bias=bootstrapped(_share, [by_quantity["output"], by_quantity["inner"]], rows),
        mse=mean_figure(error_s, rows_s),
        cosine=mean_figure(by_quantity["cosine"], rows_s),
        norm_ratio=mean_figure(by_quantity["norm_ratio"], rows_s),
        l0=mean_figure(by_quantity["l0"], rows_s),
        l1=mean_figure(by_quantity["l1"], rows_s),
    )


def norm_bands(sums: RowSums) -> list[NormBand]:
    """Content rows by norm, outliers last."""
    by_quantity = dict(zip(QUANTITIES, sums.bands_qk, strict=True))
    rows_k = by_quantity["rows"]
    mean_d = sums.band_shifts_kd.sum(0) / max(rows_k.sum(), 1)
    distance_k = by_quantity["shifted"] - 2 * sums.band_shifts_kd @ mean_d + rows_k * (mean_d @ mean_d)
    edges = [0.0, *BAND_EDGES]
    names = [f"{low:g} to {high:g} medians" for low, high in zip(edges, BAND_EDGES, strict=False)]
    names += [f"above {BAND_EDGES[-1]:g} medians", "outliers"]
    lows: list[float | None] = [edge * sums.median_norm for edge in edges]
    highs: list[float | None] = [edge * sums.median_norm for edge in BAND_EDGES]
    with np.errstate(divide="ignore", invalid="ignore"):
        fvu_k = by_quantity["error"] / distance_k
        cosine_k = by_quantity["cosine"] / rows_k
    return [
        NormBand(name, low, high, int(rows), float(fvu), float(cosine))
        for name, low, high, rows, fvu, cosine in zip(
            names, [*lows, None], [*highs, None, None], rows_k, fvu_k, cosine_k, strict=True
        )
    ]


def _share(part: Sums, whole: Sums) -> Sums:
    return part / whole


def _distances(shifted_s: Sums, rows_s: Sums, shifts_sd: Sums) -> Sums:
    """Squared distances from the mean of all rows, per sequence, from those to the point the sums were taken from."""
    mean_d = shifts_sd.sum(0) / max(rows_s.sum(), 1)
    return np.asarray(shifted_s - 2 * shifts_sd @ mean_d + rows_s * (mean_d @ mean_d))
