"""Sparse products in plain torch, for other devices than the CPU. The same functions as `sparse_cpu`.

Shapes never depend on values here, as asking for one would wait for the device; sums go row by row, not by atomic adds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from training.distributed.ranks import Ranks
from training.kernels.backward import Backward
from training.kernels.codes import SparseCodes
from training.kernels.prefixes import prefix_gradients


def batch_top_k(pre_nm: Tensor, count: int, ranks: Ranks, hint: float = 0.0) -> SparseCodes:
    """See `select_cpu.batch_top_k`; of equal values any may be kept, and `hint` is not needed here."""
    del hint
    n, m = pre_nm.shape
    top_c, flat_c = torch.topk(pre_nm.view(-1), min(count, n * m), sorted=False)
    top_c = top_c.clamp_(min=0)
    cut = ranks.batch_cut(top_c, count)
    if ranks.row_shares * ranks.latent_shares > 1:
        top_c = top_c * (top_c >= cut)
    flat_a, order_a = flat_c.sort()
    rows_n1 = torch.arange(0, n * m + 1, m, device=pre_nm.device)
    return SparseCodes(torch.searchsorted(flat_a, rows_n1), flat_a % m, top_c[order_a], cut)


def row_top_k(pre_nm: Tensor, k: int, ranks: Ranks) -> SparseCodes:
    """See `select_cpu.row_top_k`; of equal values any may be kept."""
    top_nk, latents_nk = torch.topk(pre_nm, min(k, pre_nm.shape[1]), dim=1, sorted=False)
    top_nk = top_nk.clamp_(min=0)
    if ranks.latent_shares > 1:
        top_nk = top_nk * (top_nk >= ranks.row_cuts_n(top_nk, k)[:, None])
    latents_nk, order_nk = latents_nk.sort(dim=1)
    starts_n1 = torch.arange(0, latents_nk.numel() + 1, latents_nk.shape[1], device=pre_nm.device)
    return SparseCodes(starts_n1, latents_nk.flatten(), top_nk.gather(1, order_nk).flatten())


def centre(x_nd: Tensor, b_dec_d: Tensor, centred_nd: Tensor) -> Tensor:
    """See `sparse_cpu.centre`."""
    torch.sub(x_nd, b_dec_d, out=centred_nd)
    squares = torch.linalg.vector_norm(x_nd, dtype=torch.float64).square()
    return torch.cat([x_nd.sum(0, dtype=torch.float64), squares[None]])


def decode(codes: SparseCodes, w_dec_md: Tensor) -> Tensor:
    """``f W_dec`` [n, d]."""
    return _weighted_sums(codes.latents_a, codes.values_a, codes.row_starts_n1, w_dec_md)


def reconstruct(  # noqa: PLR0917
    codes: SparseCodes,
    w_dec_md: Tensor,
    target_nd: Tensor,
    scale: Tensor | float,
    bounds: Sequence[int],
    grad_gnd: Tensor,
    ranks: Ranks,
) -> Backward:
    """See `sparse_cpu.reconstruct`."""
    return prefix_gradients(codes, decode, value_gradients, w_dec_md, target_nd, scale, bounds, grad_gnd, ranks)


def value_gradients(codes: SparseCodes, grad_nd: Tensor, w_dec_md: Tensor) -> Tensor:
    """Gradient by each active value [a], ``grad · W_dec[latent]``."""
    return (grad_nd[_rows(codes)] * w_dec_md[codes.latents_a]).sum(1)


def weight_gradients(  # noqa: PLR0917
    codes: SparseCodes,
    slopes_a: Tensor,
    grad_gnd: Tensor,
    bounds: Sequence[int],
    x_nd: Tensor,
    d_enc_md: Tensor,
    d_dec_md: Tensor,
) -> tuple[Tensor, Tensor]:
    """See `sparse_cpu.weight_gradients`; triples of value 0 do not count as active."""
    m = len(d_enc_md)
    latents_a, order_a = codes.latents_a.sort(stable=True)
    starts_m1 = torch.searchsorted(latents_a, torch.arange(m + 1, device=latents_a.device, dtype=latents_a.dtype))
    rows_a, values_a, slopes_a = _rows(codes)[order_a], codes.values_a[order_a], slopes_a[order_a]
    d_enc_md.copy_(_weighted_sums(rows_a, slopes_a, starts_m1, x_nd))
    if len(bounds) == 1:
        d_dec_md.copy_(_weighted_sums(rows_a, values_a, starts_m1, grad_gnd[0]))
    else:
        group_a = torch.bucketize(latents_a, torch.tensor(bounds, device=latents_a.device), right=True)
        d_dec_md.copy_(_weighted_sums(rows_a + len(x_nd) * group_a, values_a, starts_m1, grad_gnd.flatten(0, 1)))
    active_a1 = pad((values_a > 0).cumsum(0), (1, 0))
    slopes_a1 = pad(slopes_a.cumsum(0, dtype=torch.float64), (1, 0))
    return slopes_a1[starts_m1].diff().float(), active_a1[starts_m1].diff()


def _weighted_sums(rows_a: Tensor, weights_a: Tensor, starts_s1: Tensor, matrix_rd: Tensor) -> Tensor:
    """``sum of weights[a] * matrix[rows[a]]`` for the a of each segment, [s, d]."""
    return embedding_bag(
        rows_a,
        matrix_rd,
        starts_s1.to(rows_a.dtype),
        mode="sum",
        per_sample_weights=weights_a,
        include_last_offset=True,
    )


def _rows(codes: SparseCodes) -> Tensor:
    places_a = torch.arange(len(codes.latents_a), device=codes.latents_a.device)
    return torch.searchsorted(codes.row_starts_n1[1:].contiguous(), places_a, right=True)
