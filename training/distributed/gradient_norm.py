"""Gradient clipping by the norm over all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from training.architectures.architecture import Architecture, gradient


@torch.no_grad()
def clip_gradients_(sae: Architecture[Any], largest: float) -> float:
    """Scales all gradients down, in place, such that their norm over all ranks is at most `largest`.

    Returns:
        The norm before, the same on every rank. Parameters that every rank has count once.
    """
    gradients = {name: gradient(parameter) for name, parameter in sae.parameters().items()}
    own = [grad for name, grad in gradients.items() if name not in sae.replicated]
    shared = [grad for name, grad in gradients.items() if name in sae.replicated]
    norm = (sae.ranks.sum_latents_(_squares(own)) + _squares(shared)).sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    for grad in gradients.values():
        grad.mul_(factor)
    return float(norm)


def _squares(gradients: list[Tensor]) -> Tensor:
    return get_total_norm(gradients).square()
