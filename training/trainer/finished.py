"""Finished weights, kept in the cache folder: a run that stops later on (in the card, say) need not train again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from monitor.sae import HookPoint
from training.architectures.architecture import Shape
from training.architectures.batch_top_k import BatchTopK, BatchTopKSettings
from training.harvest.cache import ActivationCache
from training.harvest.manifest import Manifest
from training.trainer.config import TrainConfig
from training.trainer.train import TRAINER_REVISION, TrainedSae, train_sae

_NAMES = ("w_enc", "b_enc", "w_dec", "b_dec")
_FIGURES = ("scale", "rows", "l0", "fvu", "dead_share", "seconds")


def trained_once(cache: ActivationCache, hook_point: HookPoint, config: TrainConfig) -> TrainedSae:
    """Trains, or returns what an earlier run with the same settings trained on the same rows."""
    path = cache.folder / str(hook_point) / "trained.safetensors"
    settings = _settings(cache.manifest, config)
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if metadata.get("settings") == settings:
                return _restored([file.get_tensor(name) for name in _NAMES], json.loads(metadata["figures"]), config)
    trained = train_sae(cache, hook_point, config)
    _save(trained, path, settings)
    return trained


def _settings(manifest: Manifest, config: TrainConfig) -> str:
    """All that the weights depend on: the training's code and settings and what the rows were made from."""
    training = asdict(config)
    del training["threshold_tolerance"]  # is only looked at afterwards
    rows = {"unique_rows": manifest.rows, "identity": manifest.identity, "settings": manifest.settings}
    return json.dumps({"revision": TRAINER_REVISION, "training": training, "harvest": rows}, sort_keys=True)


def _save(trained: TrainedSae, path: Path, settings: str) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.weights.parameters().items()}
    figures = json.dumps({name: getattr(trained, name) for name in _FIGURES})
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"settings": settings, "figures": figures})
    part.replace(path)


def _restored(tensors: list[torch.Tensor], figures: dict[str, float], config: TrainConfig) -> TrainedSae:
    sample_nd = tensors[3][None]
    shape = Shape(width=tensors[0].shape[1], latents=len(tensors[0]))
    weights = BatchTopK(BatchTopKSettings(config.k, config.aux_weight), shape, sample_nd, torch.Generator())
    for name, value in zip(_NAMES, tensors, strict=True):
        weights.parameters()[name].copy_(value)
    return TrainedSae(weights=weights, **figures)  # type: ignore[arg-type]
