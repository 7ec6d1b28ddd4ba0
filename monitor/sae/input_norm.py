"""Normalisations of the input that depend on the row, so that no weights can take them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
InputNorm = Literal["none", "layer_norm", "unit_norm"]
INPUT_NORMS: Final = get_args(InputNorm)
EPSILON: Final = 1e-5


@dataclass(frozen=True)
class Normed:
    """Rows as the weights want them, and the way back: ``x = rows * scale + shift``."""

    rows_nd: Floats
    scale_n1: Floats
    shift_n1: Floats

    def undo(self, rows_nd: Floats) -> Floats:
        """Reconstructions [n, d] in the units of the input."""
        return rows_nd * self.scale_n1 + self.shift_n1


def normalise(x_nd: Floats, rule: Literal["layer_norm", "unit_norm"]) -> Normed:
    """Normalises rows [n, d].

    ``layer_norm``: ``(x - mean) / (std + 1e-5)`` with the unbiased standard deviation, undone without the 1e-5 (OpenAI
    sparse_autoencoder). ``unit_norm``: ``x sqrt(d) / |x|``; a row of zeros stays one (SAELens' constant_norm_rescale).
    """
    if rule == "layer_norm":
        mean_n1 = x_nd.mean(axis=1, keepdims=True)
        std_n1 = x_nd.std(axis=1, ddof=1, keepdims=True)
        return Normed((x_nd - mean_n1) / (std_n1 + np.float32(EPSILON)), std_n1, mean_n1)
    scale_n1 = np.linalg.norm(x_nd, axis=1, keepdims=True) / np.float32(np.sqrt(x_nd.shape[1]))
    divisor_n1 = np.where(scale_n1 > 0, scale_n1, np.float32(1))
    return Normed(x_nd / divisor_n1, scale_n1, np.zeros_like(scale_n1))
