"""Synthetic activations and the weights that every case starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS, ACTIVE, NOISE, BATCHES = 2048, 24, 0.05, 4
FROZEN = 1e-7
"""Learning rate: the work of a step does not depend on it, and the number of active latents stays where it starts."""


@dataclass(frozen=True)
class World:
    """Sums of `ACTIVE` of `DIRECTIONS` unit vectors and noise, scaled to a mean norm of sqrt(d).

    Attributes:
        batches: rows [n, d] each.
        weights_md: unit rows, start of encoder and decoder.
        mean_d: of the rows, start of the decoder's bias.
        cut: pre-activation above which k latents per row are active; JumpReLU's threshold, and minus the bias of ReLU
            and Gated, so that all cases have about the same L0.
        dead_j: latents that count as dead where the auxiliary loss is on.
        k: active latents per row.
    """

    batches: list[Tensor]
    weights_md: Tensor
    mean_d: Tensor
    cut: float
    dead_j: Tensor
    k: int

    @property
    def width(self) -> int:
        return self.weights_md.shape[1]

    @property
    def latents(self) -> int:
        return len(self.weights_md)

    @property
    def rows(self) -> int:
        return len(self.batches[0])


def make_world(width: int, latents: int, rows: int, k: int, dead_share: float) -> World:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(DIRECTIONS, width, generator=generator), dim=1)
    made = []
    for _ in range(BATCHES):
        active = torch.rand(rows, DIRECTIONS, generator=generator).topk(ACTIVE, dim=1).indices
        strengths = torch.zeros(rows, DIRECTIONS).scatter_(
            1, active, torch.rand(rows, ACTIVE, generator=generator) + 0.5
        )
        x_nd = strengths @ directions + NOISE * torch.randn(rows, width, generator=generator)
        made.append(x_nd * (width**0.5 / x_nd.norm(dim=1).mean()))
    weights_md = torch.nn.functional.normalize(torch.randn(latents, width, generator=generator), dim=1)
    mean_d = made[0].mean(0)
    pre_nm = (made[0] - mean_d) @ weights_md.T
    cut = float(torch.topk(pre_nm.flatten(), k * rows).values[-1])
    dead_j = torch.randperm(latents, generator=generator)[: round(dead_share * latents)].sort().values
    return World(made, weights_md, mean_d, cut, dead_j, k)
