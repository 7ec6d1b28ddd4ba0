"""Toy modules that hand the residual stream on as vLLM's do."""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 8


class FusedNorm(nn.Module):
    """As vLLM's norms: dispatches from forward(*args) to forward_native(x, residual)."""

    def forward(self, *args: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return self.forward_native(*args)

    def forward_native(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if residual is None:
            return x / x.norm(dim=-1, keepdim=True)
        total = x + residual
        return total / total.norm(dim=-1, keepdim=True), total


class PairLayer(nn.Module):
    """Passes (hidden states, residual) on, as Llama does in vLLM."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = norm
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        if residual is None:
            x, residual = self.input_layernorm(x), x
        else:
            x, residual = self.input_layernorm(x, residual)
        return self.mix(x), residual


class PlainLayer(nn.Module):
    """Returns one tensor, as GPT-2 does."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mix(x)
