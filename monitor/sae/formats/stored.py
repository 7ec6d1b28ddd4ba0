"""An SAE as it lies on disk: its weights, its configuration, and where it comes from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae.formats.npz_file import NpzArrays
from monitor.sae.formats.safetensors_file import read_safetensors
from monitor.sae.formats.torch_file import read_torch
from monitor.sae.hook_point import HookPoint

CONFIG_FILES: Final = ("cfg.json", "config.json", "hyperparams.json")
WEIGHT_FILES: Final = (
    "sae_weights.safetensors",
    "sae.safetensors",
    "params.safetensors",
    "params.npz",
    "ae.pt",
    "checkpoints/final.safetensors",
)
SUFFIXES: Final = (".safetensors", ".npz", ".pt", ".pth")


@dataclass(frozen=True)
class Hints:
    """What the caller knows and the files may not say.

    Attributes:
        hook_point: the site it was trained on.
        model: the model it was trained on.
        k: latents per token of a TopK SAE.
        norm_factor: the number that its training multiplied activations with, ``sqrt(d) / mean norm``.
    """

    hook_point: HookPoint | None = None
    model: str | None = None
    k: int | None = None
    norm_factor: float | None = None

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise FeaturewatchError(
                f"k {self.k}", "a topk SAE keeps at least one latent per token", "give the k of its training"
            )
        if self.norm_factor is not None and not 0 < self.norm_factor < math.inf:
            raise FeaturewatchError(
                f"norm factor {self.norm_factor}",
                "it is a number above 0",
                "give sqrt(d) / mean norm of the activations",
            )


@dataclass(frozen=True)
class Stored:
    """One SAE's files.

    Attributes:
        weights: the file with the tensors.
        place: where it comes from, as people write it: its path, or ``owner/repo/path`` on the Hub.
        config: its configuration; empty where there is none.
        config_path: where that was read, or where it was looked for.
        tensors: by stored name.
        values: plain values that a .pt file holds beside its tensors.
    """

    weights: Path
    place: str
    config: Mapping[str, Any]
    config_path: Path
    tensors: Mapping[str, npt.NDArray[Any]]
    values: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Of the weights file."""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def has(self, *names: str) -> bool:
        return all(name in self.tensors for name in names)


def open_stored(path: Path, place: str = "") -> Stored:
    """Opens a folder with one SAE, or its weights file.

    Raises:
        FeaturewatchError: nothing is there, it is not clear which file is meant, or a file is damaged.
    """
    try:
        return _opened(path, place)
    except OSError as error:
        raise FeaturewatchError(
            f"SAE {path} ({error.strerror or error})",
            "its files must be readable",
            "check the path and its permissions",
        ) from error


def weights_file(path: Path) -> Path:
    """The file with the tensors at `path`."""
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise FeaturewatchError(
                f"SAE file {path}", f"weights lie in files that end in {', '.join(SUFFIXES)}", "give the folder"
            )
        return path
    if not path.is_dir():
        raise FeaturewatchError(f"SAE {path}", "there is no such file or folder", "check the path")
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return path / name
    found = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if len(found) == 1:
        return path / found[0]
    raise FeaturewatchError(
        f"SAE folder {path} with {', '.join(found) or 'no weights'}",
        f"it must hold {CONFIG_FILES[0]} and {WEIGHT_FILES[0]} (SAELens layout), or one file that ends in "
        f"{', '.join(SUFFIXES)}",
        "give the file" if found else "give the folder that holds the weights",
    )


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object; raises FeaturewatchError for anything else."""
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise FeaturewatchError(f"{path} ({error})", "it must be JSON", "restore it from the training run") from error
    if not isinstance(config, dict):
        raise FeaturewatchError(f"{path}", "it must be a JSON object", "restore it from the training run")
    return config


def _config_path(weights: Path) -> Path:
    folders = [weights.parent, *([weights.parent.parent] if weights.parent.name == "checkpoints" else [])]
    candidates = [folder / name for folder in folders for name in CONFIG_FILES]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _opened(path: Path, place: str) -> Stored:
    weights = weights_file(path)
    config_path = _config_path(weights)
    config = read_config(config_path) if config_path.is_file() else {}
    values: dict[str, Any] = {}
    tensors: Mapping[str, npt.NDArray[Any]]
    if weights.suffix == ".safetensors":
        tensors = read_safetensors(weights)
    elif weights.suffix == ".npz":
        tensors = NpzArrays(weights)
    else:
        tensors, values = read_torch(weights)
    return Stored(weights, place or path.resolve().as_posix(), config, config_path, tensors, values)
