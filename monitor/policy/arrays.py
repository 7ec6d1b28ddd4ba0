"""Arrays in the form that the kernel takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def extended(array: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    """A copy with room for `capacity` entries, zeros behind those that are there."""
    larger = np.zeros((capacity, *array.shape[1:]), array.dtype)
    larger[: array.shape[0]] = array
    return larger


def lines(save_n: npt.NDArray[np.int64], num_rows: int) -> npt.NDArray[np.int64]:
    """`save_n` as the kernel takes it; raises ValueError where it would write outside of, or leave out, a line."""
    lines = plain(save_n, np.int64)
    named = np.sort(lines[lines >= 0])
    if lines.shape != (num_rows,) or not np.array_equal(named, np.arange(named.size)):
        raise ValueError(
            f"save_n has shape {lines.shape} and names lines {named.tolist()}, expected 0, 1, 2 …, once each"
        )
    return lines


def plain(array: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    """C order and writeable: other layouts are other types to numba and would start a compilation."""
    if array.dtype == dtype and array.flags.carray:
        return array
    return np.require(array, dtype, ("C", "W"))
