"""Sparse products in plain torch, for other devices than the CPU. The same functions as `sparse_cpu`."""

from __future__ import annotations

import torch
from torch import Tensor

from training.kernels.codes import SparseCodes


def batch_top_k(pre_nm: Tensor, count: int, hint: float = 0.0) -> SparseCodes:
    """The `count` largest positive pre-activations of the batch; `hint` is not needed here."""
    n, m = pre_nm.shape
    values_c, flat_c = torch.topk(pre_nm.reshape(-1), min(count, n * m), sorted=False)
    positive_c = values_c > 0
    flat_a, order_a = flat_c[positive_c].sort()
    values_a = values_c[positive_c][order_a]
    per_row_n = torch.bincount(flat_a // m, minlength=n)
    row_starts_n1 = torch.cat([per_row_n.new_zeros(1), per_row_n.cumsum(0)])
    cut = float(values_a.min()) if len(values_a) == count else 0.0
    return SparseCodes(row_starts_n1, flat_a % m, values_a, cut)


def decode(codes: SparseCodes, w_dec_md: Tensor) -> Tensor:
    """``f W_dec`` [n, d]."""
    rows_a = _rows(codes)
    out_nd = w_dec_md.new_zeros(len(codes.row_starts_n1) - 1, w_dec_md.shape[1])
    return out_nd.index_add_(0, rows_a, codes.values_a[:, None] * w_dec_md[codes.latents_a])


def gradients(  # noqa: PLR0917
    codes: SparseCodes, grad_nd: Tensor, x_nd: Tensor, w_dec_md: Tensor, d_enc_md: Tensor, d_dec_md: Tensor
) -> Tensor:
    """Writes the gradients of both matrices in place and returns that of the encoder bias [m]."""
    rows_a = _rows(codes)
    grad_ad = grad_nd[rows_a]
    by_value_a = (grad_ad * w_dec_md[codes.latents_a]).sum(1)
    d_dec_md.zero_().index_add_(0, codes.latents_a, codes.values_a[:, None] * grad_ad)
    d_enc_md.zero_().index_add_(0, codes.latents_a, by_value_a[:, None] * x_nd[rows_a])
    return w_dec_md.new_zeros(len(w_dec_md)).index_add_(0, codes.latents_a, by_value_a)


def _rows(codes: SparseCodes) -> Tensor:
    per_row_n = codes.row_starts_n1.diff()
    return torch.repeat_interleave(torch.arange(len(per_row_n), device=per_row_n.device), per_row_n)
