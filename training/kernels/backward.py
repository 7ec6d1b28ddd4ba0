"""What the reconstruction of a batch gives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Backward(NamedTuple):
    """Of one batch.

    Attributes:
        squares_g: float64 [g], the squared error of each prefix over this rank's rows.
        sums_d: float32 [d], ``grad_gnd[0]`` summed over this rank's rows.
        slopes_a: float32 [a], gradient of the loss by each active value.
    """

    squares_g: Tensor
    sums_d: Tensor
    slopes_a: Tensor
