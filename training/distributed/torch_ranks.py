"""Ranks on torch.distributed: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from monitor.errors import FeaturewatchError
from training.distributed.global_cut import global_cut
from training.distributed.ranks import Result, kth_largest_n

_AS_LONG_AS_IT_TAKES: Final = timedelta(days=365)


class _TorchRanks:
    """What both layouts share. Needs a started process group (`training.distributed.launch`)."""

    row_shares = 1
    row_share = 0
    latent_shares = 1
    latent_share = 0

    def __init__(self, device: torch.device) -> None:
        """`device`: where this rank's tensors live."""
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.first = self.rank == 0
        self._patient = dist.new_group(backend="gloo", timeout=_AS_LONG_AS_IT_TAKES)

    def batch_cut(self, candidates_c: Tensor, count: int) -> Tensor:
        return global_cut(candidates_c, count, self._sum_)

    def any_rank(self, flag: bool) -> bool:
        return bool(self._sum_(torch.tensor([int(flag)], device=self.device)))

    def after_first(self, work: Callable[[], Result]) -> Result:
        done = torch.zeros(1)
        if not self.first:
            self._together(dist.broadcast, done, 0, self._patient)
            if not done:
                raise FeaturewatchError("the first rank", "it stopped before the training", "its own message says why")
            return work()
        try:
            result = work()
            done.fill_(1)
        finally:
            self._together(dist.broadcast, done, 0, self._patient)
        return result

    def _sum_(self, tensor: Tensor) -> Tensor:
        self._together(dist.all_reduce, tensor, dist.ReduceOp.SUM, self._group(tensor))
        return tensor

    def _group(self, tensor: Tensor) -> dist.ProcessGroup | None:
        """nccl takes no tensors of the CPU; None is the run's own group."""
        return self._patient if tensor.device.type == "cpu" and self.device.type != "cpu" else None

    def _together(self, collective: Callable[..., Any], *arguments: Any) -> None:
        try:
            collective(*arguments)
        except RuntimeError as error:  # gloo and nccl have no error class of their own
            raise FeaturewatchError(
                f"rank {self.rank} of {self.size} ({str(error).splitlines()[0]})",
                "every rank must live until the end of the training",
                "the rank that stopped first says why; start all of them again, the run goes on from its checkpoint",
            ) from error


class DataParallelRanks(_TorchRanks):
    """Each rank has other rows of every batch and all latents."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.row_shares, self.row_share = self.size, self.rank

    def sum_rows_(self, tensor: Tensor) -> Tensor:
        return self._sum_(tensor)

    def sum_latents_(self, tensor: Tensor) -> Tensor:
        return tensor

    def row_cuts_n(self, top_nk: Tensor, count: int) -> Tensor:
        return kth_largest_n(top_nk, count)

    def own_rows(self, x_nd: Tensor) -> Tensor:
        if len(x_nd) % self.size:
            raise FeaturewatchError(
                f"a batch of {len(x_nd):,} rows on {self.size} ranks",
                "each rank must get as many rows as the others",
                f"make batch-rows a multiple of {self.size}",
            )
        return x_nd.chunk(self.size)[self.rank]

    def gather_latents(self, tensor_m: Tensor) -> Tensor | None:
        return tensor_m if self.first else None


class LatentShardedRanks(_TorchRanks):
    """Each rank has all rows and other latents: for dictionaries that do not fit one device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.latent_shares, self.latent_share = self.size, self.rank

    def sum_rows_(self, tensor: Tensor) -> Tensor:
        return tensor

    def sum_latents_(self, tensor: Tensor) -> Tensor:
        return self._sum_(tensor)

    def row_cuts_n(self, top_nk: Tensor, count: int) -> Tensor:
        """Each rank finds the cuts of its share of the rows, so that n·count values leave a rank and n come back."""
        n, width = top_nk.shape
        if width > count:
            top_nk = torch.topk(top_nk, count, dim=1, sorted=False).values
        rows = -(-n // self.size)
        sent = top_nk.new_zeros(self.size * rows, count)
        sent[:n, : top_nk.shape[1]] = top_nk
        received = torch.empty_like(sent)
        self._together(dist.all_to_all_single, received, sent)
        own_top = received.view(self.size, rows, count).transpose(0, 1).reshape(rows, self.size * count)
        cuts = top_nk.new_empty(self.size * rows)
        self._together(dist.all_gather, list(cuts.chunk(self.size)), kth_largest_n(own_top, count))
        return cuts[:n]

    def own_rows(self, x_nd: Tensor) -> Tensor:
        return x_nd

    def gather_latents(self, tensor_m: Tensor) -> Tensor | None:
        """By way of the CPU: the whole of what is sharded need not fit one device."""
        own_m = tensor_m.detach().cpu().contiguous()
        parts = [torch.empty_like(own_m) for _ in range(self.size)] if self.first else None
        self._together(dist.gather, own_m, parts, 0, self._group(own_m))
        return None if parts is None else torch.cat(parts)
