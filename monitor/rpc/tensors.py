"""Tensors on the wire: little-endian, row-major bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_FLOAT32 = np.dtype("<f4")
_INT32 = np.dtype("<i4")


class WireFormatError(ValueError):
    """Bytes that cannot be the tensor they stand for."""


def floats_to_bytes(values: npt.NDArray[Any]) -> bytes:
    """Any float array as float32 little-endian, row-major."""
    return np.ascontiguousarray(values, dtype=_FLOAT32).tobytes()


def ints_to_bytes(values: npt.NDArray[Any]) -> bytes:
    """Any integer array as int32 little-endian, row-major."""
    return np.ascontiguousarray(values, dtype=_INT32).tobytes()


def floats_from_bytes(data: bytes, shape: tuple[int, ...], what: str) -> npt.NDArray[np.float32]:
    """Float32 tensor of `shape`, read-only, without a copy; raises WireFormatError when the size differs.

    `what` names the field in the error.
    """
    return _from_bytes(data, _FLOAT32, shape, what)


def ints_from_bytes(data: bytes, what: str, count: int | None = None) -> npt.NDArray[np.int32]:
    """Int32 vector, read-only, without a copy; raises WireFormatError when the size is not `count` or not whole."""
    if count is None:
        if len(data) % _INT32.itemsize:
            raise WireFormatError(f"{what} has {len(data)} bytes, which is no whole number of int32 values")
        count = len(data) // _INT32.itemsize
    return _from_bytes(data, _INT32, (count,), what)


def _from_bytes(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> npt.NDArray[Any]:
    expected = dtype.itemsize
    for size in shape:
        expected *= size
    if len(data) != expected:
        raise WireFormatError(f"{what} has {len(data)} bytes, expected {expected} for {dtype.name} {list(shape)}")
    return np.frombuffer(data, dtype=dtype).reshape(shape)
