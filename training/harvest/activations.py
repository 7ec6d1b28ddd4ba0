"""What the harvest asks of a model, whatever runs it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monitor.sae import HookPoint


class ActivationModel(Protocol):
    """A model that gives the activations at its hook points in one pass over a batch of sequences."""

    @property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Where it reads, ascending, each once."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the forward pass."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the forward pass runs."""
        ...

    def width_of(self, point: HookPoint) -> int:
        """Values per row at one of its hook points; only `attn_z` may be wider or narrower than the residual stream."""
        ...

    def residuals(
        self, token_ids_bt: npt.NDArray[np.int64], lengths_b: npt.NDArray[np.int64] | None = None
    ) -> dict[HookPoint, Tensor]:
        """Rows per hook point, float32 [b, t, width] on the CPU. Padding is on the right; its rows mean nothing.

        Args:
            token_ids_bt: padded with any token.
            lengths_b: [b], tokens of each sequence, for a model that can leave the padding out; None: it is not known.
        """
        ...
