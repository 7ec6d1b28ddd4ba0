"""What an architecture's step asks of the other processes.

Two layouts. *Data*: each rank has other rows of the batch and all latents. *Latents*: each rank has all rows and other
latents. A step is written once with these calls in the right places; on one process they do nothing.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Ranks(Protocol):
    """The processes that train one SAE together.

    Attributes:
        row_shares: over how many ranks the rows of a batch are shared out; 1 unless data parallel.
        latent_shares: over how many ranks the latents are shared out; 1 unless sharded.
        latent_share: which share of the latents this rank has, from 0.
    """

    row_shares: int
    latent_shares: int
    latent_share: int

    def sum_rows_(self, tensor: Tensor) -> Tensor:
        """Adds up, in place, what each rank computed over its rows; returns the tensor."""
        ...

    def sum_latents_(self, tensor: Tensor) -> Tensor:
        """Adds up, in place, what each rank computed over its latents (a reconstruction [n, d], a norm)."""
        ...

    def batch_cut(self, candidates_c: Tensor, count: int) -> Tensor:
        """The `count`-th largest value over the candidates of all ranks, as a scalar; 0 when there are fewer.

        Args:
            candidates_c: this rank's positive values; they must hold all that could be among the `count` largest.
            count: over all ranks.
        """
        ...

    def row_cuts_n(self, top_nk: Tensor, count: int) -> Tensor:
        """The `count`-th largest value of each row over the ranks' latents [n]; 0 where there are fewer.

        Args:
            top_nk: this rank's largest values of each row, at least `count` of them or all it has; zeros are padding.
        """
        ...


class OneProcess:
    """No other process."""

    row_shares = 1
    latent_shares = 1
    latent_share = 0

    def sum_rows_(self, tensor: Tensor) -> Tensor:
        return tensor

    def sum_latents_(self, tensor: Tensor) -> Tensor:
        return tensor

    def batch_cut(self, candidates_c: Tensor, count: int) -> Tensor:
        if len(candidates_c) < count:
            return candidates_c.new_zeros(())
        return torch.topk(candidates_c, count, sorted=False).values.min()

    def row_cuts_n(self, top_nk: Tensor, count: int) -> Tensor:
        if top_nk.shape[1] < count:
            return top_nk.new_zeros(len(top_nk))
        return torch.topk(top_nk, count, dim=1, sorted=True).values[:, -1].clamp(min=0)
