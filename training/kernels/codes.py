"""Sparse latents of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SparseCodes:
    """The active (row, latent, value) triples of a batch, sorted by row.

    Attributes:
        row_starts_n1: int64 [n + 1], where each row's triples begin.
        latents_a: int64 [a].
        values_a: float32 [a], above 0.
        cut: the smallest value that was kept; 0 when every positive value was.
    """

    row_starts_n1: Tensor
    latents_a: Tensor
    values_a: Tensor
    cut: float
