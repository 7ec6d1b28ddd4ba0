"""Small dictionaries with known answers."""

from __future__ import annotations

import numpy as np

from monitor.sae import Dictionary, HookPoint, JumpRelu, Relu

POINT = HookPoint(1)


def random_sae(width: int = 8, latents: int = 24, seed: int = 0, point: HookPoint = POINT) -> Dictionary:
    """A JumpReLU SAE that fires on about a third of normal rows and reconstructs them badly."""
    rng = np.random.default_rng(seed)
    w_dec_md = rng.normal(size=(latents, width)).astype(np.float32)
    w_dec_md /= np.linalg.norm(w_dec_md, axis=1, keepdims=True)
    return Dictionary(
        w_enc_md=(w_dec_md + 0.1 * rng.normal(size=w_dec_md.shape)).astype(np.float32),
        b_enc_m=(0.1 * rng.normal(size=latents)).astype(np.float32),
        w_dec_md=w_dec_md,
        b_dec_d=(0.1 * rng.normal(size=width)).astype(np.float32),
        activation=JumpRelu(np.full(latents, 0.4, np.float32)),
        hook_point=point,
        model="toy",
    )


def exact_sae(width: int, point: HookPoint = POINT) -> Dictionary:
    """``x = relu(x) - relu(-x)``: gives every row back."""
    both = np.concatenate([np.eye(width, dtype=np.float32), -np.eye(width, dtype=np.float32)])
    zero_m, zero_d = np.zeros(2 * width, np.float32), np.zeros(width, np.float32)
    return Dictionary(both, zero_m, both.copy(), zero_d, Relu(), point, "toy")


def constant_sae(row_d: np.ndarray, point: HookPoint = POINT) -> Dictionary:
    """Gives `row_d` whatever comes in; nothing ever fires."""
    width = len(row_d)
    weights = np.eye(1, width, dtype=np.float32)
    never = JumpRelu(np.full(1, 1e9, np.float32))
    return Dictionary(weights, np.zeros(1, np.float32), weights, row_d.astype(np.float32), never, point, "toy")
