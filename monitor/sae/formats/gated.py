"""Gated SAEs as JumpReLU SAEs."""

from __future__ import annotations

import numpy as np

from monitor.sae.activation import JumpRelu
from monitor.sae.formats.weights import Floats, Weights


def fold_gate(weights: Weights, r_mag_m: Floats, b_gate_m: Floats) -> JumpRelu:
    """Makes one affine map and a threshold of both halves of a gated encoder (arXiv 2404.16014).

    With ``z = W_gate x`` and ``s = exp(r_mag) > 0``, ``f = 1[z + b_gate > 0] relu(s z + b_mag)``. In terms of
    ``pre = s z + b_mag`` the gate is open where ``pre > b_mag - s b_gate``; so nothing is approximated.

    Args:
        weights: with W_gate as `w_enc_md` and b_mag as `b_enc_m`, before b_dec is folded; changed in place.
    """
    scale_m = np.exp(r_mag_m)
    weights.w_enc_md = weights.w_enc_md * scale_m[:, None]
    return JumpRelu(np.maximum(weights.b_enc_m - scale_m * b_gate_m, np.float32(0)))
