"""What the ranks hold in parts, put together on the first one."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from monitor.sae import Dictionary, JumpRelu
from training.architectures.architecture import Architecture, Floats
from training.distributed.ranks import Ranks


def gather_dictionary(dictionary: Dictionary, ranks: Ranks) -> Dictionary | None:
    """The whole dictionary on the first rank, None on the others. Every rank must call it.

    Args:
        dictionary: what `Architecture.export` gave on this rank.
    """

    def whole(array: Floats) -> Floats | None:
        gathered = ranks.gather_latents(torch.from_numpy(array))
        return None if gathered is None else gathered.numpy()

    activation = dictionary.activation
    thresholds = whole(activation.threshold_m) if isinstance(activation, JumpRelu) else None
    w_enc_md, b_enc_m, w_dec_md = (
        whole(array) for array in (dictionary.w_enc_md, dictionary.b_enc_m, dictionary.w_dec_md)
    )
    if w_enc_md is None or b_enc_m is None or w_dec_md is None:
        return None
    if thresholds is not None:
        activation = JumpRelu(thresholds)
    return dataclasses.replace(dictionary, w_enc_md=w_enc_md, b_enc_m=b_enc_m, w_dec_md=w_dec_md, activation=activation)


def gather_parameters(sae: Architecture[Any]) -> dict[str, torch.Tensor] | None:
    """The parameters of the whole SAE by name, on the first rank, None on the others. Every rank must call it."""
    parts = {
        name: parameter if name in sae.replicated else sae.ranks.gather_latents(parameter)
        for name, parameter in sae.parameters().items()
    }
    return {name: part for name, part in parts.items() if part is not None} if sae.ranks.first else None
