"""How often and how strongly each latent fires, counted over rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

DENSE: Final = 0.1
"""A latent that fires on more than this share of the rows is dense (Gao et al., Rajamanoharan et al.)."""
QUANTILES: Final = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
_PER_OCTAVE = 64  # bins of a magnitude: a quantile is exact to 0.6 %
_OCTAVES = 80
_LOWEST = -40  # 2 to this power is the smallest magnitude told apart
_TOP = 10
_DENSITY_BINS = 30
_FRESH_ROWS = 1e-7  # the left end of the density histogram is no lower than this


@dataclass(frozen=True)
class Firing:
    """Figures of the latents over the kept rows.

    Attributes:
        rows: how many.
        latents: how many.
        silent_share: latents that fired on none of the rows. Of few rows it says little: see `resolution`.
        dense_share: latents that fired on more than 10 % of the rows.
        resolution: the lowest firing rate that is seen with 95 % probability in so many rows, ``3 / rows`` about.
        density_quantiles: firing rate over latents, by quantile.
        density_histogram: log10 of the firing rate: edges [b + 1], latents [b], silent ones left out.
        densest: latents that fire most often: index and firing rate.
        magnitudes: active latents' magnitudes, by quantile.
        largest: highest magnitude seen.
    """

    rows: int
    latents: int
    silent_share: float
    dense_share: float
    resolution: float
    density_quantiles: dict[str, float]
    density_histogram: dict[str, list[float]]
    densest: list[tuple[int, float]]
    magnitudes: dict[str, float]
    largest: float


class LatentSums:
    """Counters over rows that come in chunks."""

    def __init__(self, latents: int) -> None:
        self.rows = 0
        self.fired_m = np.zeros(latents, np.int64)
        self._magnitudes = np.zeros(_PER_OCTAVE * _OCTAVES, np.int64)
        self._largest = 0.0

    def add(self, codes_nm: Floats) -> None:
        """Adds latents [n, m] of kept rows; negative ones fire too."""
        self.rows += len(codes_nm)
        row_n, latent_n = np.nonzero(codes_nm)
        self.fired_m += np.bincount(latent_n, minlength=len(self.fired_m))
        magnitudes_n = np.abs(codes_nm[row_n, latent_n])
        if len(magnitudes_n):
            bins_n = ((np.log2(magnitudes_n) - _LOWEST) * _PER_OCTAVE).astype(np.int64)
            bins_n = np.clip(bins_n, 0, len(self._magnitudes) - 1)
            self._magnitudes += np.bincount(bins_n, minlength=len(self._magnitudes))
            self._largest = max(self._largest, float(magnitudes_n.max()))

    def firing(self) -> Firing:
        density_m = self.fired_m / max(self.rows, 1)
        order_m = np.argsort(-density_m, kind="stable")[:_TOP]
        return Firing(
            rows=self.rows,
            latents=len(density_m),
            silent_share=float((self.fired_m == 0).mean()),
            dense_share=float((density_m > DENSE).mean()),
            resolution=float(1 - 0.05 ** (1 / max(self.rows, 1))),
            density_quantiles={f"{q:g}": float(np.quantile(density_m, q)) for q in QUANTILES},
            density_histogram=self._density_histogram(density_m),
            densest=[(int(latent), float(density_m[latent])) for latent in order_m],
            magnitudes={f"{q:g}": self._quantile(q) for q in QUANTILES},
            largest=self._largest,
        )

    def _density_histogram(self, density_m: npt.NDArray[np.float64]) -> dict[str, list[float]]:
        lowest = np.floor(np.log10(max(1 / max(self.rows, 1), _FRESH_ROWS)))
        edges = np.linspace(lowest, 0, _DENSITY_BINS + 1)
        counts, _ = np.histogram(np.log10(density_m[density_m > 0]), edges)
        return {"log10_edges": edges.tolist(), "latents": counts.tolist()}

    def _quantile(self, share: float) -> float:
        total = self._magnitudes.sum()
        if not total:
            return float("nan")
        bin_ = int(np.searchsorted(np.cumsum(self._magnitudes), share * total))
        return float(min(2 ** (_LOWEST + (bin_ + 0.5) / _PER_OCTAVE), self._largest))
