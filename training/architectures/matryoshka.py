"""Matryoshka BatchTopK (arXiv 2503.17547, arXiv 2503.09532): nested prefixes of the latents, each a dictionary of its
own.

The active latents are those of BatchTopK over the whole dictionary. Each prefix reconstructs the input with those of
its latents that are active; the loss is the mean of the prefixes' errors, so that general features settle in early
groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from training.architectures.batch_top_k import BatchSelection
from training.architectures.top_k_family import TopKFamilySettings
from training.options import option, require_all


@dataclass(frozen=True)
class MatryoshkaSettings(TopKFamilySettings):
    """Settings of a Matryoshka BatchTopK SAE."""

    groups: str = option(
        "1/32,1/16,1/8,1/4,17/32", "Share of the latents in each group; prefix g holds the groups up to g."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(
            [
                (
                    _adds_up(self.groups),
                    f"groups {self.groups!r}",
                    "they are positive shares of the latents that add up to 1, with commas between",
                    "give for example 1/4,1/4,1/2",
                )
            ]
        )

    def ends(self, latents: int) -> list[int]:
        """The latent before which each group ends; raises FeaturewatchError where a group would be empty."""
        total, ends = Fraction(0), []
        for share in _shares(self.groups):
            total += share
            ends.append(round(total * latents))
        smallest = min(high - low for low, high in zip([0, *ends[:-1]], ends, strict=True))
        require_all(
            [
                (
                    smallest >= 1,
                    f"groups {self.groups!r} of {latents} latents",
                    "every group must hold at least one latent",
                    "give larger shares or more latents",
                )
            ]
        )
        return ends


class Matryoshka(BatchSelection[MatryoshkaSettings]):
    """BatchTopK whose every prefix reconstructs the input."""

    name: ClassVar[str] = "matryoshka"
    title: ClassVar[str] = "Matryoshka BatchTopK (arXiv 2503.17547) with an auxiliary loss for dead latents"

    def initialise(self, sample_nd: Tensor, generator: torch.Generator) -> None:
        super().initialise(sample_nd, generator)
        own = self.own_latents(torch.arange(self.shape.latents))
        self.bounds = [min(max(end - int(own[0]), 0), len(own)) for end in self.settings.ends(self.shape.latents)]


def _shares(groups: str) -> list[Fraction]:
    """Raises ValueError or ZeroDivisionError for what is no list of fractions."""
    return [Fraction(share.strip()) for share in groups.split(",")]


def _adds_up(groups: str) -> bool:
    try:
        shares = _shares(groups)
    except (ValueError, ZeroDivisionError):
        return False
    return all(share > 0 for share in shares) and abs(float(sum(shares)) - 1) < 1e-6
