"""The auxiliary loss that revives dead latents (Gao et al., arXiv 2406.04093, appendix A.2).

The d / 2 most active dead latents of each row reconstruct what the living ones left over; the loss is the share of that
which they miss. Its products are dense: half a width of active latents is no small share of the dead ones. They are
kept cheap by the rows instead: with more dead latents, fewer rows are looked at.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from training.distributed.ranks import Ranks

LEAST_ROWS: Final = 256
"""However many latents are dead, the loss looks at so many rows, or all that there are."""


def row_stride(dead: int, latents: int, rows: int, share: float) -> int:
    """Every how many rows the loss looks at, a power of 2, so that dead latents x rows stay below `share` of all."""
    stride = 1
    while dead > stride * share * latents and rows >= 2 * stride * LEAST_ROWS:
        stride *= 2
    return stride


def auxiliary_loss(  # noqa: PLR0917
    weight: float,
    share: float,
    dead_j: Tensor | None,
    latents: int,
    centred_nd: Tensor,
    grad_nd: Tensor,
    to_left: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    gradients: tuple[Tensor, Tensor, Tensor],
    ranks: Ranks,
) -> Tensor:
    """Adds ``weight`` times its gradients to what this rank's rows and latents have so far; returns the loss, a scalar.

    What is left over counts as a constant.

    Args:
        weight: of the loss.
        share: see `row_stride`.
        dead_j: this rank's dead latents.
        latents: of the whole dictionary.
        centred_nd: the encoder's input.
        grad_nd: what the reconstruction misses, by another factor.
        to_left: the factor from `grad_nd` to what it misses.
        weights: w_enc_md, b_enc_m and w_dec_md.
        gradients: of these three.
        ranks: the processes that train together.
    """
    (w_enc_md, b_enc_m, w_dec_md), (d_enc_md, d_benc_m, d_dec_md) = weights, gradients
    dead_j = b_enc_m.new_empty(0, dtype=torch.int64) if dead_j is None else dead_j
    dead = len(dead_j)
    if ranks.latent_shares > 1:
        dead = int(ranks.sum_latents_(dead_j.new_tensor(dead)))
    if not dead or not weight:
        return centred_nd.new_zeros((), dtype=torch.float64)
    batch_rows = len(centred_nd) * ranks.row_shares
    stride = row_stride(dead, latents, batch_rows, share)
    # Counted over the whole batch, so that ranks take the rows that one process would.
    first = -ranks.row_share * len(centred_nd) % stride
    x_rd, left_rd = centred_nd[first::stride], grad_nd[first::stride] * to_left
    w_enc_jd, w_dec_jd = w_enc_md[dead_j], w_dec_md[dead_j]
    f_rj = torch.addmm(b_enc_m[dead_j], x_rd, w_enc_jd.T).clamp_(min=0)
    active = x_rd.shape[1] // 2
    if active < dead:
        f_rj.mul_(f_rj >= ranks.row_cuts_n(f_rj, active)[:, None])
    error_rd = ranks.sum_latents_(f_rj @ w_dec_jd).sub_(left_rd)
    figures = ranks.sum_rows_(_figures(left_rd, error_rd))
    rows = -(-batch_rows // stride)
    variance = (figures[1] - figures[2:].square().sum() / rows).clamp(min=1e-12)
    grad_rd = error_rd.mul_((2.0 * weight / variance).to(error_rd.dtype))
    df_rj = (grad_rd @ w_dec_jd.T).mul_(f_rj > 0)
    d_dec_md.index_add_(0, dead_j, f_rj.T @ grad_rd)
    d_enc_md.index_add_(0, dead_j, df_rj.T @ x_rd)
    d_benc_m.index_add_(0, dead_j, df_rj.sum(0))
    return figures[0] / variance


def _figures(left_rd: Tensor, error_rd: Tensor) -> Tensor:
    """float64 [2 + d]: squares of the error and of what is left, and the latter's sums over the rows."""
    squares = [torch.linalg.vector_norm(part, dtype=torch.float64).square()[None] for part in (error_rd, left_rd)]
    return torch.cat([*squares, left_rd.sum(0, dtype=torch.float64)])
