"""The dtypes in which a cache holds its rows. numpy has no bfloat16: its bits are kept as uint16."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]

STORE_DTYPES: Final = ("float16", "bfloat16", "float32")
_HELD_AS: Final[dict[str, Any]] = {"float16": np.float16, "bfloat16": np.uint16, "float32": np.float32}
_LARGEST_BFLOAT16 = float(np.array([0x7F7F0000], np.uint32).view(np.float32)[0])


def held_as(store_dtype: str) -> np.dtype[Any]:
    """The numpy dtype of the bytes on disk."""
    dtype: np.dtype[Any] = np.dtype(_HELD_AS[store_dtype])
    return dtype


def largest(store_dtype: str) -> float:
    """The largest finite value."""
    return _LARGEST_BFLOAT16 if store_dtype == "bfloat16" else float(np.finfo(_HELD_AS[store_dtype]).max)


def stored(rows_nd: Floats, store_dtype: str) -> Stored:
    """Finite rows in the form on disk, rounded to the nearest, ties to even."""
    if store_dtype != "bfloat16":
        return rows_nd.astype(held_as(store_dtype))
    bits_nd = np.ascontiguousarray(rows_nd, np.float32).view(np.uint32)
    return ((bits_nd + 0x7FFF + ((bits_nd >> 16) & 1)) >> 16).astype(np.uint16)


def as_floats(rows_nd: Stored, store_dtype: str) -> Floats:
    """Rows as they are on disk in float32, always a new array."""
    if store_dtype != "bfloat16":
        return rows_nd.astype(np.float32)
    bits_nd = rows_nd.astype(np.uint32)
    bits_nd <<= 16
    return bits_nd.view(np.float32)
