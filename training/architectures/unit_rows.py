"""Decoders whose rows keep norm 1."""

from __future__ import annotations

import torch
from torch import Tensor

from training.architectures.architecture import Shape, gradient


@torch.no_grad()
def take_out_radial(w_dec_md: Tensor) -> None:
    """Takes out the part of the gradient that would only change the length of the rows."""
    d_dec_md = gradient(w_dec_md)
    along_m = torch.linalg.vecdot(d_dec_md, w_dec_md)
    d_dec_md.addcmul_(w_dec_md, along_m[:, None], value=-1)


@torch.no_grad()
def keep_unit_rows(w_dec_md: Tensor) -> None:
    """Brings the rows back to norm 1."""
    w_dec_md.div_(w_dec_md.norm(dim=1, keepdim=True).clamp(min=1e-12))


def copied_encoder(w_dec_md: Tensor, shape: Shape) -> Tensor:
    """An encoder for a ReLU, in the decoder's directions.

    Half of m random latents are active at the start and together give back m/2d times the input; the encoder is shorter
    by that factor, so that the first reconstructions have the input's length.
    """
    return w_dec_md * min(1.0, 2 * shape.width / shape.latents)
