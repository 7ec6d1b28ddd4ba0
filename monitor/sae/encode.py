"""Encoding with a whole dictionary at the speed of its matrix product.

What follows the product (bias, threshold or top-k) is one compiled pass in place. numba is imported by the first call.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae.activation import Activation, JumpRelu, Relu, TopK, activate_

Floats = npt.NDArray[np.float32]
SPARSE_ROWS: Final = 512
"""Rows of one chunk of a sparse encode."""
_CHUNK_VALUES: Final = 1 << 25
"""Larger results are made in chunks. Smaller chunks would still be in a cache for what follows the product, but each
product packs the weights anew, which costs more."""
_ALONE_VALUES: Final = 1 << 21
"""Up to here one core follows the product faster than others wake up."""
_FLOAT32: Final = np.dtype(np.float32)


@dataclass(frozen=True)
class SparseLatents:
    """The active latents of n rows.

    Attributes:
        row_starts_n1: int64 [n + 1], where each row's latents begin.
        latents_a: int32 [a], ascending within a row.
        values_a: float32 [a], above 0.
    """

    row_starts_n1: npt.NDArray[np.int64]
    latents_a: npt.NDArray[np.int32]
    values_a: Floats


def encode_dense(
    x_nd: Floats, w_enc_md: Floats, b_enc_m: Floats, activation: Activation, out_nm: Floats | None = None
) -> Floats:
    """Latents [n, m].

    Args:
        x_nd: rows.
        w_enc_md: encoder.
        b_enc_m: its bias.
        activation: rule from pre-activations to latents.
        out_nm: contiguous float32 memory for the result; used again, it saves the time that fresh memory takes.

    Raises:
        FeaturewatchError: the memory does not fit.
    """
    x_nd = np.asarray(x_nd, np.float32)
    n, m = len(x_nd), len(w_enc_md)
    if out_nm is not None and not (out_nm.shape == (n, m) and out_nm.dtype is _FLOAT32 and out_nm.flags.c_contiguous):
        raise FeaturewatchError(
            f"memory for latents of shape {list(out_nm.shape)} and dtype {out_nm.dtype}",
            f"it must be contiguous float32 of shape {[n, m]}",
            "give np.empty of that shape, or leave it out",
        )
    if n * m <= _CHUNK_VALUES:
        f_nm: Floats = np.matmul(x_nd, w_enc_md.T, out=out_nm)
        finish = _finish if n * m <= _ALONE_VALUES else _finish_together
        finish(f_nm, b_enc_m, activation)
        return f_nm
    f_nm = np.empty((n, m), np.float32) if out_nm is None else out_nm
    chunks = -(-n * m // _CHUNK_VALUES)
    for low, high in pairwise(n * chunk // chunks for chunk in range(chunks + 1)):
        np.matmul(x_nd[low:high], w_enc_md.T, out=f_nm[low:high])
        _finish_together(f_nm[low:high], b_enc_m, activation)
    return f_nm


def encode_sparse(
    x_nd: Floats, w_enc_md: Floats, b_enc_m: Floats, activation: Activation, rows: int = SPARSE_ROWS
) -> SparseLatents:
    """The active latents, without ever holding [n, m]: pre-activations of `rows` rows at a time are used again."""
    gather_rows = _loops().gather_rows

    n, m = len(x_nd), len(w_enc_md)
    chunk_cm = np.empty((min(rows, n), m), np.float32)
    latents, value_bits = np.empty(4 * m, np.int32), np.empty(4 * m, np.int32)
    found_n = np.zeros(n, np.int64)
    at = 0
    for low in range(0, n, rows):
        part_nd = x_nd[low : low + rows]
        f_cm = encode_dense(part_nd, w_enc_md, b_enc_m, activation, chunk_cm[: len(part_nd)])
        bits, done = f_cm.reshape(-1).view(np.int32), 0
        while done < len(part_nd):
            if at + m > len(latents):
                room = 2 * len(latents)
                latents, value_bits = np.resize(latents, room), np.resize(value_bits, room)
            found_c = found_n[low : low + len(part_nd)]
            done, at = gather_rows(done, len(part_nd), m, bits, 0, found_c, latents, value_bits, at)
    starts_n1 = np.concatenate([[0], np.cumsum(found_n)])
    return SparseLatents(starts_n1, latents[:at].copy(), value_bits[:at].view(np.float32).copy())


def _finish_together(f_nm: Floats, b_enc_m: Floats, activation: Activation) -> None:
    """`_finish` on all cores."""
    cores = len(os.sched_getaffinity(0))
    shares = [(len(f_nm) * core // cores, len(f_nm) * (core + 1) // cores) for core in range(cores)]
    helpers = [_pool(os.getpid()).submit(_finish, f_nm[low:high], b_enc_m, activation) for low, high in shares[1:]]
    _finish(f_nm[: shares[0][1]], b_enc_m, activation)
    for helper in helpers:
        helper.result()


def _finish(f_nm: Floats, b_enc_m: Floats, activation: Activation) -> None:
    # One row takes some 60 us: each look-up here counts.
    loops = _loops()
    if isinstance(activation, JumpRelu):
        loops.shift_and_cut(f_nm, b_enc_m, activation.threshold_m)
        return
    loops.shift_and_cut(f_nm, b_enc_m, _zeros(len(b_enc_m)))
    if isinstance(activation, TopK):
        k = activation.k
        scratch = np.empty((1, k), np.int32), np.empty((1, k), np.int32)
        loops.keep_row_top_k(f_nm, f_nm.reshape(-1).view(np.int32), k, *scratch)
    elif not isinstance(activation, Relu):
        activate_(f_nm, activation)


@cache
def _loops() -> ModuleType:
    """Compiled loops; numba is imported here."""
    from monitor.sae import row_loops

    return row_loops


@cache
def _zeros(m: int) -> Floats:
    return np.zeros(m, np.float32)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """One per process: a forked child has none of its parent's threads."""
    del process
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="encode")
