"""What an architecture's step asks of the other processes.

Two layouts. *Data*: each rank has other rows of the batch and all latents. *Latents*: each rank has all rows and other
latents. A step is written once with these calls in the right places; on one process they do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

Result = TypeVar("Result")


class Ranks(Protocol):
    """The processes that train one SAE together.

    Attributes:
        first: whether this process is the one that writes, reports and measures.
        row_shares: over how many ranks the rows of a batch are shared out; 1 unless data parallel.
        row_share: which share of a batch's rows this rank has, from 0.
        latent_shares: over how many ranks the latents are shared out; 1 unless sharded.
        latent_share: which share of the latents this rank has, from 0.
    """

    first: bool
    row_shares: int
    row_share: int
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

    def own_rows(self, x_nd: Tensor) -> Tensor:
        """This rank's share of a batch that every rank has read: consecutive rows, as many on each rank."""
        ...

    def gather_latents(self, tensor_m: Tensor) -> Tensor | None:
        """The whole of a tensor whose first dimension is this rank's latents: on the first rank, None on the others.

        With all latents on every rank it is the tensor itself, there too; else it lies on the CPU.
        """
        ...

    def any_rank(self, flag: bool) -> bool:
        """Whether `flag` holds on any rank, so that all take the same branch. Every rank must call it."""
        ...

    def after_first(self, work: Callable[[], Result]) -> Result:
        """Runs `work` on the first rank and then, when it is done there, on the others: they find the files it made.

        The others wait as long as it takes (a harvest takes hours), unless the first rank stops.
        """
        ...


class OneProcess:
    """No other process."""

    first = True
    row_shares = 1
    row_share = 0
    latent_shares = 1
    latent_share = 0

    def sum_rows_(self, tensor: Tensor) -> Tensor:
        return tensor

    def sum_latents_(self, tensor: Tensor) -> Tensor:
        return tensor

    def batch_cut(self, candidates_c: Tensor, count: int) -> Tensor:
        surplus = len(candidates_c) - count
        if surplus < 0:
            return candidates_c.new_zeros(())
        if candidates_c.device.type == "cpu":  # a tenth of the time that torch's selection takes
            return torch.as_tensor(np.partition(candidates_c.numpy(), surplus)[surplus])
        return torch.topk(candidates_c, count, sorted=False).values.min()

    def row_cuts_n(self, top_nk: Tensor, count: int) -> Tensor:
        return kth_largest_n(top_nk, count)

    def own_rows(self, x_nd: Tensor) -> Tensor:
        return x_nd

    def gather_latents(self, tensor_m: Tensor) -> Tensor | None:
        return tensor_m

    def any_rank(self, flag: bool) -> bool:
        return flag

    def after_first(self, work: Callable[[], Result]) -> Result:
        return work()


def kth_largest_n(top_nk: Tensor, count: int) -> Tensor:
    """The `count`-th largest value of each row [n]; 0 where there are fewer, or where it is not positive."""
    if top_nk.shape[1] < count:
        return top_nk.new_zeros(len(top_nk))
    surplus = top_nk.shape[1] - count
    if top_nk.device.type == "cpu":  # a few times faster than torch's selection
        return torch.from_numpy(np.partition(top_nk.numpy(), surplus, axis=1)[:, surplus].copy()).clamp_(min=0)
    return torch.topk(top_nk, count, dim=1, sorted=True).values[:, -1].clamp(min=0)
