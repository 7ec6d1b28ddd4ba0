"""The command line that repeats a training."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from training.harvest.config import HarvestConfig
from training.models.packaged import PACKAGED
from training.output_config import OutputConfig
from training.trainer.config import TrainConfig

# Fields whose option has another name, and fields that the command line does not offer.
_NAMES = {"hook_points": "hook-point", "k": "k"}
_NOT_OFFERED = {"model", "cache", "prompt_tokens", "shard_rows"}


def command_line(harvest: HarvestConfig, train: TrainConfig, output: OutputConfig) -> str:
    """`featurewatch train` with every option that differs from its default; folders are left out of file names."""
    words = ["featurewatch", "train", _model(harvest.model)]
    for config, rename in ((harvest, {}), (train, {}), (output, {"dtype": "weights-dtype"})):
        for item in fields(config):
            value = getattr(config, item.name)
            if item.name in _NOT_OFFERED or (value == item.default and item.name not in ("k", "tokens")):
                continue
            flag = rename.get(item.name) or _NAMES.get(item.name) or item.name.replace("_", "-")
            words += _words(f"--{flag}", value)
    return shlex.join(words)


def _model(model: str) -> str:
    """The alias of a packaged model, a hub id as it is, the last part of any other folder."""
    name = Path(model).name
    aliases = {packaged.folder: alias for alias, packaged in PACKAGED.items()}
    if name in aliases:
        return aliases[name]
    return model if model.count("/") == 1 and not Path(model).is_dir() else name


def _words(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag] if value else []
    if isinstance(value, tuple):
        return [word for item in value for word in _words(flag, item)]
    if isinstance(value, Path) and flag == "--data":
        return [flag, value.name]
    return [flag, str(value)]
