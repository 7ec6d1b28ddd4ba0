"""Decoders whose rows keep norm 1."""

from __future__ import annotations

from typing import Final

import numpy as np
from torch import Tensor

from training.kernels.compiled import Floats, compiled
from training.kernels.threads import spread

_LEAST: Final = 1e-12
"""Norm of the shortest row that is made a unit row."""


def remove_parallel_(gradient_md: Tensor, rows_md: Tensor) -> None:
    """Takes out of each row of a gradient the part along that row, which has norm 1."""
    if gradient_md.device.type != "cpu":
        gradient_md.addcmul_((gradient_md * rows_md).sum(1, keepdim=True), rows_md, value=-1)
        return
    gradient, rows = gradient_md.numpy(), rows_md.numpy()
    spread(lambda low, high, _: _remove_parallel(low, high, gradient, rows), len(rows))


def normalise_rows_(rows_md: Tensor) -> None:
    """Scales each row to norm 1; a row of zeros, which has no direction, stays one."""
    if rows_md.device.type != "cpu":
        rows_md.div_(rows_md.norm(dim=1, keepdim=True).clamp_(min=_LEAST))
        return
    rows = rows_md.numpy()
    spread(lambda low, high, _: _normalise(low, high, rows), len(rows))


@compiled
def _remove_parallel(low: int, high: int, gradient: Floats, rows: Floats) -> None:
    for j in range(low, high):
        along = np.float32(0.0)
        for c in range(rows.shape[1]):
            along += gradient[j, c] * rows[j, c]
        for c in range(rows.shape[1]):
            gradient[j, c] -= along * rows[j, c]


@compiled
def _normalise(low: int, high: int, rows: Floats) -> None:
    for j in range(low, high):
        squares = np.float32(0.0)
        for c in range(rows.shape[1]):
            squares += rows[j, c] * rows[j, c]
        factor = np.float32(1.0) / max(np.sqrt(squares), np.float32(_LEAST))
        for c in range(rows.shape[1]):
            rows[j, c] *= factor
