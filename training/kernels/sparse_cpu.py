"""Sparse products on the CPU.

With 32 of 4,608 latents active, the decoder and all weight gradients need under 1 % of what dense products would
compute. Loops over rows and over latents are compiled by numba; only the encoder stays a dense product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.kernels.codes import SparseCodes

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


class _Decorator(Protocol):
    """numba has no types of its own; its decorators keep the signature."""

    def __call__(self, function: Kernel, /) -> Kernel: ...


_jit: _Decorator = numba.njit(parallel=True, fastmath={"contract", "reassoc", "nsz"}, cache=True)
_jit_serial: _Decorator = numba.njit(cache=True)


def batch_top_k(pre_nm: Tensor, count: int, hint: float = 0.0) -> SparseCodes:
    """The `count` largest positive pre-activations of the batch, exactly.

    Args:
        pre_nm: float32 [n, m].
        count: how many to keep over the whole batch.
        hint: an estimate of the smallest kept value, e.g. the last batch's; it only saves time.
    """
    pre = pre_nm.numpy()
    floor = np.float32(max(0.0, 0.9 * hint))
    starts_n1 = _count_above(pre, floor)
    while starts_n1[-1] < count and floor > 0:
        floor = np.float32(0.5 * floor if floor > 1e-3 else 0.0)
        starts_n1 = _count_above(pre, floor)
    latents_c, values_c = _gather_above(pre, floor, starts_n1)
    surplus = len(values_c) - count
    if surplus <= 0:
        return SparseCodes(torch.from_numpy(starts_n1), torch.from_numpy(latents_c), torch.from_numpy(values_c), 0.0)
    cut = np.partition(values_c, surplus)[surplus]
    starts_n1, latents_a, values_a = _keep_from(starts_n1, latents_c, values_c, cut, count)
    return SparseCodes(torch.from_numpy(starts_n1), torch.from_numpy(latents_a), torch.from_numpy(values_a), float(cut))


def decode(codes: SparseCodes, w_dec_md: Tensor) -> Tensor:
    """``f W_dec`` [n, d]."""
    return torch.from_numpy(
        _decode(codes.row_starts_n1.numpy(), codes.latents_a.numpy(), codes.values_a.numpy(), w_dec_md.numpy())
    )


def gradients(  # noqa: PLR0917
    codes: SparseCodes, grad_nd: Tensor, x_nd: Tensor, w_dec_md: Tensor, d_enc_md: Tensor, d_dec_md: Tensor
) -> Tensor:
    """Writes the gradients of both matrices in place and returns that of the encoder bias [m].

    Args:
        codes: the active latents.
        grad_nd: gradient of the loss by the reconstruction.
        x_nd: the encoder's input.
        w_dec_md: decoder.
        d_enc_md: receives ``df^T x``.
        d_dec_md: receives ``f^T grad``.
    """
    starts, latents, values = codes.row_starts_n1.numpy(), codes.latents_a.numpy(), codes.values_a.numpy()
    grad, x = grad_nd.numpy(), x_nd.numpy()
    by_value_a = _value_gradients(starts, latents, grad, w_dec_md.numpy())
    latent_starts_m1, rows_a, order_a = _by_latent(starts, latents, len(w_dec_md))
    return torch.from_numpy(
        _weight_gradients(
            latent_starts_m1, rows_a, values[order_a], by_value_a[order_a], grad, x, d_enc_md.numpy(), d_dec_md.numpy()
        )
    )


@_jit
def _count_above(pre: Floats, floor: np.float32) -> Ints:
    n, m = pre.shape
    starts = np.zeros(n + 1, np.int64)
    for i in numba.prange(n):
        found = 0
        for j in range(m):
            found += pre[i, j] > floor
        starts[i + 1] = found
    for i in range(n):
        starts[i + 1] += starts[i]
    return starts


@_jit
def _gather_above(pre: Floats, floor: np.float32, starts: Ints) -> tuple[Ints, Floats]:
    n, m = pre.shape
    latents = np.empty(starts[n], np.int64)
    values = np.empty(starts[n], np.float32)
    for i in numba.prange(n):
        at = starts[i]
        for j in range(m):
            if pre[i, j] > floor:
                latents[at] = j
                values[at] = pre[i, j]
                at += 1
    return latents, values


@_jit_serial
def _keep_from(starts: Ints, latents: Ints, values: Floats, cut: float, count: int) -> tuple[Ints, Ints, Floats]:
    """Keeps the values above the cut and, from the start, as many equal to it as `count` allows."""
    ties = count
    for a in range(len(values)):
        ties -= values[a] > cut
    kept_starts = np.zeros_like(starts)
    kept_latents = np.empty(count, np.int64)
    kept_values = np.empty(count, np.float32)
    at = 0
    for i in range(len(starts) - 1):
        for a in range(starts[i], starts[i + 1]):
            if values[a] > cut or (values[a] == cut and ties > 0):
                ties -= values[a] == cut
                kept_latents[at] = latents[a]
                kept_values[at] = values[a]
                at += 1
        kept_starts[i + 1] = at
    return kept_starts, kept_latents, kept_values


@_jit
def _decode(starts: Ints, latents: Ints, values: Floats, w_dec: Floats) -> Floats:
    n, d = len(starts) - 1, w_dec.shape[1]
    out = np.zeros((n, d), np.float32)
    for i in numba.prange(n):
        for a in range(starts[i], starts[i + 1]):
            row, value = latents[a], values[a]
            for c in range(d):
                out[i, c] += value * w_dec[row, c]
    return out


@_jit
def _value_gradients(starts: Ints, latents: Ints, grad: Floats, w_dec: Floats) -> Floats:
    n, d = grad.shape
    out = np.empty(len(latents), np.float32)
    for i in numba.prange(n):
        for a in range(starts[i], starts[i + 1]):
            total = np.float32(0.0)
            row = latents[a]
            for c in range(d):
                total += grad[i, c] * w_dec[row, c]
            out[a] = total
    return out


@_jit_serial
def _by_latent(starts: Ints, latents: Ints, m: int) -> tuple[Ints, Ints, Ints]:
    """Counting sort of the triples by latent: starts [m + 1], rows [a] and the order [a]."""
    latent_starts = np.zeros(m + 1, np.int64)
    for a in range(len(latents)):
        latent_starts[latents[a] + 1] += 1
    for j in range(m):
        latent_starts[j + 1] += latent_starts[j]
    at = latent_starts[:-1].copy()
    rows = np.empty(len(latents), np.int64)
    order = np.empty(len(latents), np.int64)
    for i in range(len(starts) - 1):
        for a in range(starts[i], starts[i + 1]):
            j = latents[a]
            rows[at[j]] = i
            order[at[j]] = a
            at[j] += 1
    return latent_starts, rows, order


@_jit
def _weight_gradients(  # noqa: PLR0917
    latent_starts: Ints,
    rows: Ints,
    values: Floats,
    by_value: Floats,
    grad: Floats,
    x: Floats,
    d_enc: Floats,
    d_dec: Floats,
) -> Floats:
    m, d = d_enc.shape
    d_bias = np.zeros(m, np.float32)
    for j in numba.prange(m):
        for c in range(d):
            d_enc[j, c] = 0.0
            d_dec[j, c] = 0.0
        for a in range(latent_starts[j], latent_starts[j + 1]):
            i, value, slope = rows[a], values[a], by_value[a]
            d_bias[j] += slope
            for c in range(d):
                d_enc[j, c] += slope * x[i, c]
                d_dec[j, c] += value * grad[i, c]
    return d_bias
