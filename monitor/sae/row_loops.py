"""Loops over rows of pre-activations, compiled when they are first called. Importing this room does not import them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from monitor.sae.mask import LANES, bit_count, lowest_bit, reached, without_lowest

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Loop = TypeVar("Loop", bound=Callable[..., Any])
INFINITY_BITS: Final = 0x7F800000


class _Decorator(Protocol):
    """numba has no types of its own; its decorators keep the signature."""

    def __call__(self, function: Loop, /) -> Loop: ...


_compiled: _Decorator = numba.njit(nogil=True, cache=True)


@_compiled
def shift_and_cut(f: Floats, bias: Floats, threshold: Floats) -> None:
    """``f + bias`` where it is above the threshold of 0 or more, else 0, in place; NaN stays."""
    for i in range(f.shape[0]):
        for j in range(f.shape[1]):
            value = f[i, j] + bias[j]
            f[i, j] = np.float32(0.0) if value <= threshold[j] else value


@_compiled
def keep_row_top_k(f: Floats, bits: Ints, k: int, latents: Ints, value_bits: Ints) -> None:
    """Zeroes all but the k largest positive values of each row, the first of equal ones, in place.

    Args:
        f: [n, m].
        bits: the same memory.
        k: how many.
        latents: [1, k], scratch.
        value_bits: [1, k], scratch.
    """
    m = f.shape[1]
    found = np.empty(1, np.int64)
    for i in range(f.shape[0]):
        row = bits[i * m : (i + 1) * m]
        row_top_k_bits(0, 1, m, row, k, latents, value_bits, found)
        row[:] = 0
        for c in range(found[0]):
            row[latents[0, c]] = value_bits[0, c]


@_compiled
def gather_rows(  # noqa: PLR0917
    low: int, high: int, m: int, bits: Ints, floor: int, found_n: Longs, latents: Ints, value_bits: Ints, at: int
) -> tuple[int, int]:
    """Appends what lies above the floor from place `at` on; stops before a row for which there may be no room."""
    for i in range(low, high):
        if at + m > len(latents):
            return i, at
        end = gather_row(bits, i * m, m, floor + 1, latents, value_bits, at)
        found_n[i] = end - at
        at = end
    return high, at


@_compiled
def gather_row(  # noqa: PLR0917
    bits: Ints, begin: int, m: int, least: int, latents: Ints, value_bits: Ints, at: int
) -> int:
    whole = m - m % LANES
    for block in range(0, whole, LANES):
        word = reached(bits, begin + block, least)
        while word:
            j = block + lowest_bit(word)
            latents[at] = j
            value_bits[at] = bits[begin + j]
            at += 1
            word = without_lowest(word)
    for j in range(whole, m):
        if bits[begin + j] >= least:
            latents[at] = j
            value_bits[at] = bits[begin + j]
            at += 1
    return at


@_compiled
def kth_bits(bits: Ints, size: int, k: int) -> int:
    """The k-th largest of the first `size` values by bisection over their bits; 0 if fewer are positive.

    Args:
        bits: with zeros up to the next multiple of `LANES`.
        size: how many.
        k: at least 1.
    """
    low, high = 0, INFINITY_BITS + 1
    while high - low > 1:
        middle = (low + high) >> 1
        above_it = 0
        for block in range(0, size, LANES):
            above_it += bit_count(reached(bits, block, middle))
        if above_it >= k:
            low = middle
        else:
            high = middle
    return low


@_compiled
def row_top_k_bits(  # noqa: PLR0917
    low: int, high: int, m: int, pre_bits: Ints, k: int, latents: Ints, value_bits: Ints, found_n: Longs
) -> None:
    """The maxima of `width` interleaved lanes bound the cut from below; few values lie above that bound."""
    width = min(m // 2, max(4 * k, m // 16)) // LANES * LANES
    if width < k:
        width = 0
    lanes = np.empty(width, np.int32)
    bits = np.empty(m + LANES, np.int32)
    places = np.empty(m + LANES, np.int32)
    for i in range(low, high):
        begin, floor = i * m, 1
        if width:
            for c in range(width):
                lanes[c] = pre_bits[begin + c]
            for block in range(begin + width, begin + m - width + 1, width):
                part = pre_bits[block : block + width]
                for c in range(width):
                    lane, value = lanes[c], part[c]
                    lanes[c] = value if value > lane else lane
            floor = max(1, kth_bits(lanes, width, k))
        found = gather_row(pre_bits, begin, m, floor, places, bits, 0)
        bits[found : found + LANES] = 0
        cut = kth_bits(bits, found, k) if found > k else 0
        equal = k
        for c in range(found):
            equal -= bits[c] > cut
        at = 0
        for c in range(found):
            if bits[c] > cut or (bits[c] == cut and equal > 0):
                equal -= bits[c] == cut
                latents[i, at] = places[c]
                value_bits[i, at] = bits[c]
                at += 1
        found_n[i] = at
