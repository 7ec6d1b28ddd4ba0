"""Random weights and the means to store them as other programs do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from monitor.sae import Dictionary

D, M = 6, 24
Doubles = npt.NDArray[np.float64]
Tensors = dict[str, npt.NDArray[Any]]


class Draw:
    """Float32 weights; the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> npt.NDArray[np.float32]:
        return self._rng.standard_normal(shape, np.float32)

    def positive(self, *shape: int) -> npt.NDArray[np.float32]:
        return self._rng.random(shape, np.float32) + np.float32(0.1)


def rows(n: int = 40, d: int = D) -> npt.NDArray[np.float32]:
    return np.random.default_rng(99).standard_normal((n, d), np.float32) * 2 + np.float32(0.5)


def doubles(tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, Doubles]:
    return {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


def store(
    folder: Path, tensors: Tensors, config: object = None, *, weights: str, config_file: str = "cfg.json"
) -> Path:
    """Writes a folder with weights (by suffix) and, if given, a configuration."""
    path = folder / weights
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **tensors)
    else:
        torch.save({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}, path)
    if config is not None:
        (folder / config_file).write_text(json.dumps(config))
    return folder


def relu(pre: Doubles) -> Doubles:
    return np.maximum(pre, 0)


def top(pre_nm: Doubles, k: int) -> Doubles:
    """The k largest of each row, without regard to sign."""
    kept = np.zeros_like(pre_nm)
    for row, pre_m in enumerate(pre_nm):
        largest = np.argsort(-pre_m, kind="stable")[:k]
        kept[row, largest] = pre_m[largest]
    return kept


def agree(
    sae: Dictionary, x_nd: npt.NDArray[np.float32], f_nm: Doubles, x_hat_nd: Doubles, scale: float = 1e-4
) -> None:
    """The same latents fire with the same values, and the reconstruction is the same; and enough of them to tell."""
    ours_nm = sae.encode(x_nd)
    assert 0.05 < np.count_nonzero(f_nm) / f_nm.size < 0.95
    np.testing.assert_array_equal(ours_nm > 0, f_nm > 0)
    np.testing.assert_allclose(ours_nm, f_nm, rtol=scale, atol=scale)
    np.testing.assert_allclose(sae.reconstruct(x_nd), x_hat_nd, rtol=10 * scale, atol=10 * scale)
