"""Linear probes: over the residual stream (dense) or over a few latents of an SAE.

A probe is a safetensors file. Dense: ``weight [d]``, ``bias [1]``. SAE probe: ``latents [k]`` (int64), ``weight [k]``,
``bias [1]``. The file's metadata names the hook point or the SAE, so a probe cannot be used in the wrong place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from monitor.errors import FeaturewatchError
from monitor.sae.hook_point import HookPoint


@dataclass(frozen=True)
class DenseProbe:
    """``score = weight . x + bias`` on a residual row x [d], in logits."""

    hook_point: HookPoint
    weight_d: npt.NDArray[np.float32]
    bias: float
    sha256: str = ""


@dataclass(frozen=True)
class SaeProbe:
    """``score = weight . f[latents] + bias`` on the latents f of one SAE, in logits."""

    sae: str
    latents_k: npt.NDArray[np.int64]
    weight_k: npt.NDArray[np.float32]
    bias: float
    sha256: str = ""


def save_dense_probe(probe: DenseProbe, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {"weight": probe.weight_d.astype(np.float32), "bias": np.array([probe.bias], np.float32)},
        path,
        metadata={"kind": "denseProbe", "hook_point": str(probe.hook_point)},
    )


def save_sae_probe(probe: SaeProbe, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            "latents": probe.latents_k.astype(np.int64),
            "weight": probe.weight_k.astype(np.float32),
            "bias": np.array([probe.bias], np.float32),
        },
        path,
        metadata={"kind": "saeProbe", "sae": probe.sae},
    )


def load_dense_probe(path: Path) -> DenseProbe:
    """Reads a dense probe; raises FeaturewatchError for anything else."""
    tensors, metadata, sha256 = _read(path, "denseProbe", ("weight", "bias"))
    return DenseProbe(
        hook_point=HookPoint.parse(metadata.get("hook_point", "")),
        weight_d=tensors["weight"].astype(np.float32).reshape(-1),
        bias=float(tensors["bias"].reshape(-1)[0]),
        sha256=sha256,
    )


def load_sae_probe(path: Path) -> SaeProbe:
    """Reads an SAE probe; raises FeaturewatchError for anything else."""
    tensors, metadata, sha256 = _read(path, "saeProbe", ("latents", "weight", "bias"))
    latents_k, weight_k = (
        tensors["latents"].astype(np.int64).reshape(-1),
        tensors["weight"].astype(np.float32).reshape(-1),
    )
    if latents_k.shape != weight_k.shape:
        raise FeaturewatchError(
            f"SAE probe {path} with {latents_k.size} latents and {weight_k.size} weights",
            "there must be one weight per latent",
            "fit the probe again with `featurewatch discover`",
        )
    return SaeProbe(
        sae=metadata.get("sae", ""),
        latents_k=latents_k,
        weight_k=weight_k,
        bias=float(tensors["bias"].reshape(-1)[0]),
        sha256=sha256,
    )


def _read(path: Path, kind: str, names: tuple[str, ...]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str], str]:
    if not path.is_file():
        raise FeaturewatchError(
            f"probe file {path}",
            "there is no such file",
            "give a path relative to the policy file or run `featurewatch discover`",
        )
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            names_stored = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names_stored}
    except SafetensorError as error:
        raise FeaturewatchError(
            f"probe file {path} ({error})", "it must be in safetensors format", "fit the probe again"
        ) from error
    missing = [name for name in names if name not in tensors]
    if missing or metadata.get("kind") != kind:
        raise FeaturewatchError(
            f"probe file {path} of kind {metadata.get('kind')!r} with tensors {', '.join(sorted(tensors)) or 'none'}",
            f"a {kind} has kind {kind!r} and tensors {', '.join(names)}",
            "use the file that `featurewatch discover` wrote for this source",
        )
    if not all(np.isfinite(tensors[name]).all() for name in names):
        raise FeaturewatchError(
            f"probe file {path} with NaN or infinite values", "weights must be finite", "fit it again"
        )
    return tensors, metadata, hashlib.sha256(path.read_bytes()).hexdigest()
