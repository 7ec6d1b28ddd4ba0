"""Sparse products on the CPU.

With 32 of 4,608 latents active, the decoder and all weight gradients need under 1 % of what dense products would
compute; only the encoder stays a dense product. Loops are bound by the cache, so that every row of a matrix that is
fetched is used for all that needs it.

Gradients of *nested prefixes* of the dictionary (Matryoshka) are the general case: group g of the latents ends before
latent ``bounds[g]``, prefix g holds the groups up to g, and ``grad_gnd[g]`` is the gradient of the loss by what a
latent of group g adds to the reconstruction. An ordinary SAE has one group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.distributed.ranks import Ranks
from training.kernels.backward import Backward
from training.kernels.by_latent import by_latent
from training.kernels.codes import SparseCodes
from training.kernels.compiled import Doubles, Floats, Ints, Longs, compiled
from training.kernels.prefixes import prefix_gradients
from training.kernels.select_cpu import batch_top_k, row_top_k
from training.kernels.threads import PARTS, spread

__all__ = ["batch_top_k", "centre", "decode", "reconstruct", "row_top_k", "value_gradients", "weight_gradients"]


def centre(x_nd: Tensor, b_dec_d: Tensor, centred_nd: Tensor) -> Tensor:
    """Writes ``x - b_dec``; returns float64 [d + 1], the sums of the columns of x and the sum of its squares."""
    x, b_dec, centred = x_nd.numpy(), b_dec_d.numpy(), centred_nd.numpy()
    moments = np.zeros((PARTS, x.shape[1] + 1))
    spread(lambda low, high, part: _centre(low, high, x, b_dec, centred, moments[part]), len(x))
    return torch.from_numpy(moments.sum(0))


def decode(codes: SparseCodes, w_dec_md: Tensor) -> Tensor:
    """``f W_dec`` [n, d]."""
    starts, latents, values = codes.row_starts_n1.numpy(), codes.latents_a.numpy(), codes.values_a.numpy()
    w_dec = w_dec_md.numpy()
    out = np.zeros((len(starts) - 1, w_dec.shape[1]), np.float32)
    spread(lambda low, high, _: _decode(low, high, starts, latents, values, w_dec, out), len(out))
    return torch.from_numpy(out)


def reconstruct(  # noqa: PLR0917
    codes: SparseCodes,
    w_dec_md: Tensor,
    target_nd: Tensor,
    scale: float,
    bounds: Sequence[int],
    grad_gnd: Tensor,
    ranks: Ranks,
) -> Backward:
    """Decodes, compares with the target and goes back to the values.

    The loss is ``scale / 2`` times the squared errors of all prefixes.

    Args:
        codes: the active latents.
        w_dec_md: decoder.
        target_nd: what the codes ought to reconstruct.
        scale: of the gradient.
        bounds: where the groups of this rank's latents end; the last is m.
        grad_gnd: receives the gradients [g, n, d].
        ranks: the processes that train together.
    """
    if ranks.latent_shares > 1:
        return prefix_gradients(codes, decode, value_gradients, w_dec_md, target_nd, scale, bounds, grad_gnd, ranks)
    starts, latents, values = codes.row_starts_n1.numpy(), codes.latents_a.numpy(), codes.values_a.numpy()
    w_dec, target, grad = w_dec_md.numpy(), target_nd.numpy(), grad_gnd.numpy()
    ends = np.array(bounds, np.int32)
    squares, sums = np.zeros((PARTS, len(bounds))), np.zeros((PARTS, w_dec.shape[1]), np.float32)
    slopes = np.empty(len(values), np.float32)
    given = starts, latents, values, w_dec, target, np.float32(scale), ends, grad, slopes
    spread(lambda low, high, part: _reconstruct(low, high, *given, squares[part], sums[part]), len(target))
    return Backward(*(torch.from_numpy(array) for array in (squares.sum(0), sums.sum(0), slopes)))


def value_gradients(codes: SparseCodes, grad_nd: Tensor, w_dec_md: Tensor) -> Tensor:
    """Gradient by each active value [a], ``grad · W_dec[latent]``."""
    starts, latents, grad, w_dec = (
        tensor.numpy() for tensor in (codes.row_starts_n1, codes.latents_a, grad_nd, w_dec_md)
    )
    slopes = np.empty(len(latents), np.float32)
    spread(lambda low, high, _: _value_gradients(low, high, starts, latents, grad, w_dec, slopes), len(grad))
    return torch.from_numpy(slopes)


def weight_gradients(  # noqa: PLR0917
    codes: SparseCodes,
    slopes_a: Tensor,
    grad_gnd: Tensor,
    bounds: Sequence[int],
    x_nd: Tensor,
    d_enc_md: Tensor,
    d_dec_md: Tensor,
) -> tuple[Tensor, Tensor]:
    """Writes the gradients of both matrices; returns that of the encoder's bias [m] and in how many rows each latent
    is.

    Args:
        codes: the triples.
        slopes_a: gradient by each pre-activation.
        grad_gnd: gradient by the reconstruction, [g, n, d].
        bounds: where the groups of this rank's latents end; the last is m.
        x_nd: the encoder's input.
        d_enc_md: receives ``slopes^T x``.
        d_dec_md: receives ``f^T grad``.
    """
    m = len(d_enc_md)
    by_latent_m1, rows_a, order_a = by_latent(codes.row_starts_n1.numpy(), codes.latents_a.numpy(), m)
    values, slopes = codes.values_a.numpy()[order_a], slopes_a.numpy()[order_a]
    grad, x, d_enc, d_dec = (tensor.numpy() for tensor in (grad_gnd, x_nd, d_enc_md, d_dec_md))
    d_bias = np.empty(m, np.float32)
    given = by_latent_m1, rows_a, values, slopes, np.array(bounds, np.int32), grad, x, d_enc, d_dec, d_bias
    spread(lambda low, high, _: _weight_gradients(low, high, *given), m)
    return torch.from_numpy(d_bias), torch.from_numpy(np.diff(by_latent_m1))


@compiled
def _centre(  # noqa: PLR0917
    low: int, high: int, x: Floats, b_dec: Floats, centred: Floats, moments: Doubles
) -> None:
    d = x.shape[1]
    for i in range(low, high):
        for c in range(d):
            centred[i, c] = x[i, c] - b_dec[c]
            moments[c] += x[i, c]
        moments[d] += _dot(x[i], x[i])


@compiled
def _add_rows(out: Floats, rows: Ints, factors: Floats, matrix: Floats, begin: int, end: int) -> None:  # noqa: PLR0917
    """Adds ``factors[a] * matrix[rows[a]]`` for a range of a, four rows at a time."""
    a = begin
    while a + 4 <= end:
        r0, r1, r2, r3 = rows[a], rows[a + 1], rows[a + 2], rows[a + 3]
        f0, f1, f2, f3 = factors[a], factors[a + 1], factors[a + 2], factors[a + 3]
        for c in range(len(out)):
            out[c] += f0 * matrix[r0, c] + f1 * matrix[r1, c] + f2 * matrix[r2, c] + f3 * matrix[r3, c]
        a += 4
    while a < end:
        row, factor = rows[a], factors[a]
        for c in range(len(out)):
            out[c] += factor * matrix[row, c]
        a += 1


@compiled
def _decode(  # noqa: PLR0917
    low: int, high: int, starts: Longs, latents: Ints, values: Floats, w_dec: Floats, out: Floats
) -> None:
    for i in range(low, high):
        _add_rows(out[i], latents, values, w_dec, starts[i], starts[i + 1])


@compiled
def _value_gradients(  # noqa: PLR0917
    low: int, high: int, starts: Longs, latents: Ints, grad: Floats, w_dec: Floats, slopes: Floats
) -> None:
    for i in range(low, high):
        for a in range(starts[i], starts[i + 1]):
            slopes[a] = _dot(grad[i], w_dec[latents[a]])


@compiled
def _dot(first: Floats, second: Floats) -> np.float32:
    total = np.float32(0.0)
    for c in range(len(first)):
        total += first[c] * second[c]
    return total


@compiled
def _reconstruct(  # noqa: PLR0917
    low: int,
    high: int,
    starts: Longs,
    latents: Ints,
    values: Floats,
    w_dec: Floats,
    target: Floats,
    scale: np.float32,
    bounds: Ints,
    grad: Floats,
    slopes: Floats,
    squares: Doubles,
    sums: Floats,
) -> None:
    """Row by row, so that the rows of the decoder are still in the cache on the way back."""
    d, groups = w_dec.shape[1], len(bounds)
    error = np.empty(d, np.float32)
    begins = np.empty(groups + 1, np.int64)
    for i in range(low, high):
        begins[0] = starts[i]
        for c in range(d):
            error[c] = -target[i, c]
        for g in range(groups):
            end = begins[g]
            while end < starts[i + 1] and latents[end] < bounds[g]:
                end += 1
            begins[g + 1] = end
            _add_rows(error, latents, values, w_dec, begins[g], end)
            for c in range(d):
                grad[g, i, c] = scale * error[c]
            squares[g] += _dot(error, error)
        for g in range(groups - 1, -1, -1):
            if g + 1 < groups:
                for c in range(d):
                    grad[g, i, c] += grad[g + 1, i, c]
            for a in range(begins[g], begins[g + 1]):
                slopes[a] = _dot(grad[g, i], w_dec[latents[a]])
        for c in range(d):
            sums[c] += grad[0, i, c]


@compiled
def _weight_gradients(  # noqa: PLR0917
    low: int,
    high: int,
    latent_starts: Longs,
    rows: Ints,
    values: Floats,
    slopes: Floats,
    bounds: Ints,
    grad: Floats,
    x: Floats,
    d_enc: Floats,
    d_dec: Floats,
    d_bias: Floats,
) -> None:
    g = 0
    for j in range(low, high):
        while j >= bounds[g]:
            g += 1
        begin, end = latent_starts[j], latent_starts[j + 1]
        for c in range(d_enc.shape[1]):
            d_enc[j, c] = 0.0
            d_dec[j, c] = 0.0
        _add_rows(d_enc[j], rows, slopes, x, begin, end)
        _add_rows(d_dec[j], rows, values, grad[g], begin, end)
        total = np.float32(0.0)
        for a in range(begin, end):
            total += slopes[a]
        d_bias[j] = total
