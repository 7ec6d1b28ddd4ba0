"""Residual rows on the wire: in the engine's dtype, which numpy need not know."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitor.rpc.tensors import WireFormatError
from monitor.v1.tap_pb2 import ResidualRows

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    # Its bits: numpy has no such type.
    "bfloat16": np.dtype("<u2"),
}


def check_residual_rows(rows: ResidualRows) -> None:
    """Raises WireFormatError unless the values are as many as dtype, row count and width say."""
    dtype = _DTYPES.get(rows.dtype)
    if dtype is None:
        raise WireFormatError(f"dtype {rows.dtype!r}, expected one of {', '.join(_DTYPES)}")
    expected = rows.row_count * rows.width * dtype.itemsize
    if len(rows.values) != expected:
        shape = f"[{rows.row_count}, {rows.width}]"
        raise WireFormatError(f"values have {len(rows.values)} bytes, expected {expected} for {rows.dtype} {shape}")


def residuals_from(rows: ResidualRows) -> npt.NDArray[np.float32]:
    """The rows [n, d] as float32, exactly: all three dtypes are contained in it. Raises WireFormatError."""
    check_residual_rows(rows)
    values_nd = np.frombuffer(rows.values, _DTYPES[rows.dtype]).reshape(rows.row_count, rows.width)
    if rows.dtype == "bfloat16":
        # The upper half of a float32.
        return np.asarray(np.left_shift(values_nd, 16, dtype=np.uint32).view(np.float32))
    return np.asarray(values_nd, np.float32)
