"""What a dense ReLU step does entry by entry, in one pass over each matrix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.kernels.compiled import Floats, compiled
from training.kernels.threads import PARTS, spread


def rectify_(pre_nm: Tensor, bias_m: Tensor) -> tuple[Tensor, Tensor]:
    """Adds the bias and rectifies, in place; returns the active rows and the sum of each latent, both [m]."""
    counts_pm, sums_pm = torch.zeros(2, PARTS, len(bias_m))
    pre, bias, counts, sums = pre_nm.numpy(), bias_m.numpy(), counts_pm.numpy(), sums_pm.numpy()
    spread(lambda low, high, part: _rectify(pre, bias, counts[part], sums[part], low, high), len(pre))
    return counts_pm.sum(0), sums_pm.sum(0)


def slope_(slope_nm: Tensor, f_nm: Tensor, cost_m: Tensor) -> Tensor:
    """Adds the cost where the latent is active and writes 0 elsewhere, in place; returns the sum of each latent [m]."""
    sums_pm = torch.zeros(PARTS, len(cost_m))
    slope, f, cost, sums = slope_nm.numpy(), f_nm.numpy(), cost_m.numpy(), sums_pm.numpy()
    spread(lambda low, high, part: _slope(slope, f, cost, sums[part], low, high), len(slope))
    return sums_pm.sum(0)


@compiled
def _rectify(  # noqa: PLR0917
    pre: Floats, bias: Floats, counts: Floats, sums: Floats, low: int, high: int
) -> None:
    for i in range(low, high):
        row = pre[i]
        for j in range(len(bias)):
            value = row[j] + bias[j]
            silent = value <= 0  # a NaN is not, and stays one
            value = np.float32(0.0) if silent else value
            row[j] = value
            sums[j] += value
            counts[j] += np.float32(0.0) if silent else np.float32(1.0)


@compiled
def _slope(  # noqa: PLR0917
    slope: Floats, f: Floats, cost: Floats, sums: Floats, low: int, high: int
) -> None:
    for i in range(low, high):
        row, active = slope[i], f[i]
        for j in range(len(cost)):
            value = row[j] + cost[j]
            value = value if active[j] > 0 else np.float32(0.0)
            row[j] = value
            sums[j] += value
