"""Memory that every step uses again: fresh pages of a large tensor cost more than what is computed in it."""

from __future__ import annotations

import torch
from torch import Tensor


class Buffers:
    """Tensors by name; each grows to the largest size that was asked for."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def get(self, name: str, *shape: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised contiguous tensor, on the device and with the dtype of `like`; the next call of the same
        name gives the same memory."""
        dtype = dtype or like.dtype
        size = 1
        for length in shape:
            size *= length
        held = self._held.get(name)
        if held is None or held.numel() < size or held.dtype != dtype or held.device != like.device:
            held = self._held[name] = torch.empty(size, dtype=dtype, device=like.device)
        return held[:size].view(shape)
