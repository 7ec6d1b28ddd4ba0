"""Starts the ranks of a training that `torchrun` launched.

``torchrun --nproc-per-node 2 --no-python featurewatch train ...``: every process runs the same command and finds its
place in the environment. Without torchrun there is one process and nothing to start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist

from monitor.errors import FeaturewatchError
from training.distributed.layouts import LAYOUTS
from training.distributed.ranks import OneProcess, Ranks
from training.distributed.torch_ranks import DataParallelRanks, LatentShardedRanks

_PATIENCE: Final = timedelta(minutes=10)


@contextmanager
def started_ranks(
    layout: str, device: torch.device, *, batch_rows: int, latents: Sequence[int], patience: timedelta = _PATIENCE
) -> Iterator[Ranks]:
    """The ranks of this process's run; the group ends with the block.

    Args:
        layout: `data` (other rows of each batch per rank) or `latents` (other latents per rank).
        device: `cpu` (gloo) or `cuda` (nccl, the GPU of torchrun's LOCAL_RANK).
        batch_rows: of a whole batch.
        latents: of each whole dictionary that is trained.
        patience: a rank that waits longer than this for the others ends with an error.

    Raises:
        FeaturewatchError: no such layout, or it does not fit the number of ranks; too few GPUs; no connection.
    """
    if layout not in LAYOUTS:
        raise FeaturewatchError(f"layout {layout!r}", f"it is {' or '.join(LAYOUTS)}", "choose one of them")
    size = launched_ranks()
    if size == 1:
        yield OneProcess()
        return
    _require_divisible(layout, size, batch_rows, latents)
    if device.type == "cuda":
        device = _own_gpu(_from_environment("LOCAL_RANK", 0))
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=patience)
    except (RuntimeError, ValueError) as error:  # what torch.distributed raises for a peer or a port that is not there
        raise FeaturewatchError(
            f"rank {os.environ.get('RANK', '?')} of {size} ({str(error).splitlines()[0]})",
            "it must reach the other ranks",
            "start all of them with torchrun, with the same --rdzv-endpoint or --master-addr",
        ) from error
    try:
        yield DataParallelRanks(device) if layout == "data" else LatentShardedRanks(device)
    finally:
        dist.destroy_process_group()


def launched_ranks() -> int:
    """How many processes torchrun started for this run; 1 without it. Raises FeaturewatchError."""
    return _from_environment("WORLD_SIZE", 1)


def _require_divisible(layout: str, size: int, batch_rows: int, latents: Sequence[int]) -> None:
    what, setting = ("rows", "--batch-rows") if layout == "data" else ("latents", "their number")
    for number in [batch_rows] if layout == "data" else latents:
        if number % size:
            raise FeaturewatchError(
                f"{number:,} {what} on {size} ranks",
                f"layout {layout} gives each rank as many {what} as the others",
                f"make {setting} a multiple of {size}, or start another number of ranks",
            )


def _own_gpu(local_rank: int) -> torch.device:
    if local_rank >= torch.cuda.device_count():
        raise FeaturewatchError(
            f"rank {local_rank} of this machine with {torch.cuda.device_count()} GPUs",
            "each rank needs a GPU of its own",
            "lower --nproc-per-node, or hide the GPUs (CUDA_VISIBLE_DEVICES='') to train on the CPU",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise FeaturewatchError(f"{name}={text!r} in the environment", "it must be a number", "start with torchrun")
    return int(text)
