"""Errors and gradients of nested prefixes where the latents are spread over ranks, or on other devices than the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.distributed.ranks import Ranks
from training.kernels.backward import Backward
from training.kernels.codes import SparseCodes


def prefix_gradients(  # noqa: PLR0917
    codes: SparseCodes,
    decode: Callable[[SparseCodes, Tensor], Tensor],
    value_gradients: Callable[[SparseCodes, Tensor, Tensor], Tensor],
    w_dec_md: Tensor,
    target_nd: Tensor,
    scale: Tensor | float,
    bounds: Sequence[int],
    grad_gnd: Tensor,
    ranks: Ranks,
) -> Backward:
    """See `sparse_cpu.reconstruct`; each group's part of the reconstruction is summed over the ranks' latents."""
    groups = [_part(codes, low, high, len(bounds)) for low, high in zip([0, *bounds[:-1]], bounds, strict=True)]
    for part_nd, (part, _) in zip(grad_gnd, groups, strict=True):
        part_nd.copy_(decode(part, w_dec_md))
    ranks.sum_latents_(grad_gnd)
    grad_gnd[0].sub_(target_nd)
    for g in range(1, len(groups)):
        grad_gnd[g].add_(grad_gnd[g - 1])
    squares_g = torch.linalg.vector_norm(grad_gnd, dim=(1, 2), dtype=torch.float64).square()
    grad_gnd.mul_(scale)
    for g in range(len(groups) - 2, -1, -1):
        grad_gnd[g].add_(grad_gnd[g + 1])
    slopes_a = torch.empty_like(codes.values_a)
    for grad_nd, (part, members_a) in zip(grad_gnd, groups, strict=True):
        slopes_a[members_a] = value_gradients(part, grad_nd, w_dec_md)
    # Triples of value 0 fill up a batch in which fewer values were positive.
    slopes_a.mul_(codes.values_a > 0)
    return Backward(squares_g, grad_gnd[0].sum(0), slopes_a)


def _part(codes: SparseCodes, low: int, high: int, groups: int) -> tuple[SparseCodes, Tensor | slice]:
    """The triples of latents from `low` up to `high`, and which these are."""
    if groups == 1:
        return codes, slice(None)
    inside_a = (codes.latents_a >= low) & (codes.latents_a < high)
    members_a = inside_a.nonzero().flatten()
    before_a1 = torch.nn.functional.pad(inside_a.cumsum(0), (1, 0))
    return (
        SparseCodes(before_a1[codes.row_starts_n1], codes.latents_a[members_a], codes.values_a[members_a], codes.cut),
        members_a,
    )
