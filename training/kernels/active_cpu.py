"""Loops over the active entries of a batch, for SAEs whose latents each look at their own pre-activation only.

An entry is a (row, latent) pair. Entries are sorted by row; `starts_n1` says where each row's begin. Every function
writes into what the caller gives, so that memory is used again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.kernels.by_latent import by_latent
from training.kernels.compiled import Floats, Ints, Longs, compiled
from training.kernels.threads import spread

_LANES = 32


def count_above(pre_nm: Tensor, floor_m: Tensor) -> Tensor:
    """How many entries of each row are above their latent's floor, int64 [n]."""
    counts_n = torch.empty(len(pre_nm), dtype=torch.int64)
    pre, floor, counts = pre_nm.numpy(), floor_m.numpy(), counts_n.numpy()
    spread(lambda low, high, part: _count(pre, floor, counts, low, high), len(pre))
    return counts_n


def gather_above(pre_nm: Tensor, floor_m: Tensor, counts_n: Tensor) -> tuple[Tensor, Tensor]:
    """Latents (int32) and values of the entries above their floor, both [a].

    Args:
        pre_nm: float32 [n, m], contiguous.
        floor_m: per latent.
        counts_n: what `count_above` gave for the same arguments.
    """
    ends = counts_n.cumsum(0)
    total = int(ends[-1])
    latents_a, values_a = torch.empty(total, dtype=torch.int32), torch.empty(total)
    pre, floor, first = pre_nm.numpy(), floor_m.numpy(), (ends - counts_n).numpy()
    latents, values = latents_a.numpy(), values_a.numpy()
    spread(lambda low, high, part: _gather(pre, floor, first, latents, values, low, high), len(pre))
    return latents_a, values_a


def decode(starts_n1: Tensor, latents_a: Tensor, values_a: Tensor, w_dec_md: Tensor, out_nd: Tensor) -> Tensor:
    """Writes ``f W_dec`` into `out_nd` and returns it."""
    starts, latents, values = starts_n1.numpy(), latents_a.numpy(), values_a.numpy()
    w_dec, out = w_dec_md.numpy(), out_nd.numpy()
    spread(lambda low, high, part: _decode(starts, latents, values, w_dec, out, low, high), len(out))
    return out_nd


def dots(starts_n1: Tensor, latents_a: Tensor, grad_nd: Tensor, w_dec_md: Tensor) -> Tensor:
    """``grad · W_dec`` of each entry's row and latent [a]."""
    out_a = torch.empty(len(latents_a))
    starts, latents = starts_n1.numpy(), latents_a.numpy()
    grad, w_dec, out = grad_nd.numpy(), w_dec_md.numpy(), out_a.numpy()
    spread(lambda low, high, part: _dots(starts, latents, grad, w_dec, out, low, high), len(grad))
    return out_a


def weight_gradients(  # noqa: PLR0917
    starts_n1: Tensor,
    latents_a: Tensor,
    values_a: Tensor,
    slopes_a: Tensor,
    grad_nd: Tensor,
    input_nd: Tensor,
    d_enc_md: Tensor,
    d_dec_md: Tensor,
) -> None:
    """Writes ``slopes^T input`` into `d_enc_md` and ``values^T grad`` into `d_dec_md`."""
    m = len(d_enc_md)
    latent_starts, rows, order = by_latent(starts_n1.numpy(), latents_a.numpy(), m)
    values, slopes, grad, x = values_a.numpy(), slopes_a.numpy(), grad_nd.numpy(), input_nd.numpy()
    d_enc, d_dec = d_enc_md.numpy(), d_dec_md.numpy()

    def loop(low: int, high: int, part: int) -> None:
        del part
        _weights(latent_starts, rows, order, values, slopes, grad, x, d_enc, d_dec, low, high)

    spread(loop, m)


@compiled
def _count(pre: Floats, floor: Floats, counts: Longs, low: int, high: int) -> None:
    for i in range(low, high):
        found = 0
        for j in range(pre.shape[1]):
            found += pre[i, j] > floor[j]
        counts[i] = found


@compiled
def _gather(  # noqa: PLR0917
    pre: Floats, floor: Floats, first: Longs, latents: Ints, values: Floats, low: int, high: int
) -> None:
    """Most groups of lanes hold nothing, which one comparison per lane tells without a branch."""
    m = pre.shape[1]
    for i in range(low, high):
        at = first[i]
        for block in range(0, m, _LANES):
            end = min(block + _LANES, m)
            found = 0
            for j in range(block, end):
                found += pre[i, j] > floor[j]
            if found:
                for j in range(block, end):
                    if pre[i, j] > floor[j]:
                        latents[at] = j
                        values[at] = pre[i, j]
                        at += 1


@compiled
def _decode(  # noqa: PLR0917
    starts: Longs, latents: Ints, values: Floats, w_dec: Floats, out: Floats, low: int, high: int
) -> None:
    d = out.shape[1]
    for i in range(low, high):
        for c in range(d):
            out[i, c] = 0.0
        for a in range(starts[i], starts[i + 1]):
            j, value = latents[a], values[a]
            if value != 0.0:
                for c in range(d):
                    out[i, c] += value * w_dec[j, c]


@compiled
def _dots(  # noqa: PLR0917
    starts: Longs, latents: Ints, grad: Floats, w_dec: Floats, out: Floats, low: int, high: int
) -> None:
    d = grad.shape[1]
    for i in range(low, high):
        for a in range(starts[i], starts[i + 1]):
            j = latents[a]
            total = np.float32(0.0)
            for c in range(d):
                total += grad[i, c] * w_dec[j, c]
            out[a] = total


@compiled
def _weights(  # noqa: PLR0917
    latent_starts: Longs,
    rows: Ints,
    order: Ints,
    values: Floats,
    slopes: Floats,
    grad: Floats,
    x: Floats,
    d_enc: Floats,
    d_dec: Floats,
    low: int,
    high: int,
) -> None:
    d = d_enc.shape[1]
    for j in range(low, high):
        for c in range(d):
            d_enc[j, c] = 0.0
            d_dec[j, c] = 0.0
        for a in range(latent_starts[j], latent_starts[j + 1]):
            i, value, slope = rows[a], values[order[a]], slopes[order[a]]
            if slope != 0.0:
                for c in range(d):
                    d_enc[j, c] += slope * x[i, c]
            if value != 0.0:
                for c in range(d):
                    d_dec[j, c] += value * grad[i, c]
