"""Folding what training keeps apart: the input's scale and the norms of the decoder's rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monitor.sae import Dictionary, HookPoint, JumpRelu, Relu
from training.architectures.architecture import as_numpy


@dataclass(frozen=True)
class TrainedWeights:
    """For scaled rows.

    Attributes:
        w_enc_md: encoder.
        bias_m: what is added to ``W_enc x``; an encoder of ``x - b_dec`` has ``b_enc - W_enc b_dec`` here.
        w_dec_md: decoder, its rows of any length.
        b_dec_d: decoder bias.
        threshold_m: of a JumpReLU; None for a ReLU.
    """

    w_enc_md: Tensor
    bias_m: Tensor
    w_dec_md: Tensor
    b_dec_d: Tensor
    threshold_m: Tensor | None = None


@torch.no_grad()
def folded(
    weights: TrainedWeights, scale: float, hook_point: HookPoint, model: str, metadata: dict[str, Any]
) -> Dictionary:
    """The normal form for inputs that are not multiplied by `scale`, with decoder rows of norm 1."""
    norm_m = decoder_norms(weights.w_dec_md)
    activation: Relu | JumpRelu = Relu()
    if weights.threshold_m is not None:
        activation = JumpRelu(as_numpy(weights.threshold_m * norm_m / scale))
    return Dictionary(
        w_enc_md=as_numpy(weights.w_enc_md * norm_m[:, None]),
        b_enc_m=as_numpy(weights.bias_m * norm_m / scale),
        w_dec_md=as_numpy(weights.w_dec_md / norm_m[:, None]),
        b_dec_d=as_numpy(weights.b_dec_d / scale),
        activation=activation,
        hook_point=hook_point,
        model=model,
        metadata=metadata,
    )


def decoder_norms(w_dec_md: Tensor) -> Tensor:
    """[m], never 0."""
    norm_m: Tensor = torch.linalg.vector_norm(w_dec_md, dim=1)
    return norm_m.clamp_(min=1e-12)
