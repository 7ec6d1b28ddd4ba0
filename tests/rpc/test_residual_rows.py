"""Residual rows on the wire."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.rpc import WireFormatError, residuals_from
from monitor.v1.tap_pb2 import ResidualRows


@settings(deadline=None)
@given(st.sampled_from(["float32", "bfloat16", "float16"]), st.integers(0, 5), st.integers(1, 7), st.integers(0, 9))
def test_rows_of_every_dtype_come_back_exactly(dtype: str, count: int, width: int, seed: int) -> None:
    rows_nd = torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(getattr(torch, dtype))
    values = rows_nd.view(torch.uint8).numpy().tobytes()
    message = ResidualRows(row_count=count, width=width, dtype=dtype, values=values)
    read_nd = residuals_from(message)
    assert read_nd.dtype == np.float32
    np.testing.assert_array_equal(read_nd, rows_nd.float().numpy())


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (ResidualRows(row_count=2, width=3, dtype="float32", values=bytes(23)), "23 bytes, expected 24"),
        (ResidualRows(row_count=2, width=3, dtype="bfloat16", values=bytes(24)), "24 bytes, expected 12"),
        (ResidualRows(row_count=1, width=1, dtype="float8", values=bytes(1)), "dtype 'float8'"),
    ],
)
def test_rows_of_another_size_are_refused(rows: ResidualRows, says: str) -> None:
    with pytest.raises(WireFormatError, match=says):
        residuals_from(rows)
