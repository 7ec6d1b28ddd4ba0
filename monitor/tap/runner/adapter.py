"""What the tap needs from one of vLLM's model runners. Everything that knows a runner's insides is in its own file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from monitor.tap.tap import Tap


class RunnerAdapter(Protocol):
    """One model runner instance. Only this instance is changed, never its class."""

    @property
    def name(self) -> str:
        """ "v1" or "v2"."""
        ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def drafter(self) -> nn.Module | None:
        """The model that drafts tokens, if one does."""
        ...

    @property
    def max_rows(self) -> int:
        """Most rows a forward pass may have."""
        ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def on_model_loaded(self, callback: Any) -> None:
        """Calls `callback()` once the weights are loaded, before profiling and compilation. It may raise."""
        ...

    def attach(self, tap: Tap, on_shutdown: Any) -> None:
        """From now on `tap` hears of every step; `on_shutdown()` comes before the runner lets go of its model."""
        ...

    def detach(self) -> None:
        """Puts the runner's own methods back."""
        ...

    def outputs(self, request_id: str) -> Sequence[int]:
        """All tokens sampled for a live request; empty where that is not known."""
        ...
