"""Sparse latents of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SparseCodes:
    """The active (row, latent, value) triples of a batch, sorted by row and then by latent.

    Attributes:
        row_starts_n1: int64 [n + 1], where each row's triples begin.
        latents_a: int32 [a] on the CPU, int64 elsewhere.
        values_a: float32 [a], above 0; elsewhere than on the CPU zeros may fill up what was asked for.
        cut: scalar, the smallest value that was kept of the batch, over all ranks; 0 when every positive value was;
            None where each row has its own.
    """

    row_starts_n1: Tensor
    latents_a: Tensor
    values_a: Tensor
    cut: Tensor | None = None
