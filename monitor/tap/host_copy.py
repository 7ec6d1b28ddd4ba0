"""Copies from the engine's device to the host that nobody waits for until they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class HostCopy(Protocol):
    """Tensors on their way."""

    def done(self) -> bool:
        """True when `read` does not wait."""
        ...

    def read(self) -> list[torch.Tensor]:
        """The copies, in the order of the originals."""
        ...


class HostCopier(Protocol):
    """Starts copies. What is copied is the originals' content at this place of the engine's stream."""

    def copy(self, tensors: Sequence[torch.Tensor]) -> HostCopy: ...


class _Copied:
    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._tensors = tensors

    def done(self) -> bool:
        return True

    def read(self) -> list[torch.Tensor]:
        return self._tensors


class CpuCopier:
    """For engines whose tensors live on the host."""

    def copy(self, tensors: Sequence[torch.Tensor]) -> HostCopy:
        return _Copied([tensor.clone() for tensor in tensors])


class _CudaCopy:
    """Copies in pinned memory, valid once `copied` has passed."""

    def __init__(self, tensors: list[torch.Tensor], copied: torch.cuda.Event) -> None:
        self._tensors, self._copied = tensors, copied

    def done(self) -> bool:
        return bool(self._copied.query())  # type: ignore[no-untyped-call]

    def read(self) -> list[torch.Tensor]:
        self._copied.synchronize()
        return self._tensors


class CudaCopier:
    """Copies on a side stream into pinned memory. Not run on a GPU yet."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device=device)  # type: ignore[no-untyped-call]

    def copy(self, tensors: Sequence[torch.Tensor]) -> HostCopy:
        """The originals must not be written to again, as those of vLLM's buffers would be: give it clones."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            copies = [self._start(tensor) for tensor in tensors]
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._stream)
        return _CudaCopy(copies, copied)

    def _start(self, source: torch.Tensor) -> torch.Tensor:
        target = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        target.copy_(source, non_blocking=True)
        # The source's memory is not reused before this is done.
        source.record_stream(self._stream)
        return target


def make_copier(device: torch.device) -> HostCopier:
    return CudaCopier(device) if device.type == "cuda" else CpuCopier()
