"""The command line that repeats a training."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from typing import Any

from training.harvest.compute import forward_device, forward_dtype
from training.harvest.config import HarvestConfig
from training.output_config import OutputConfig
from training.trainer.config import TrainConfig

# Fields whose option has another name. The cache is left out: it is no part of what is made, and may be gone.
_NAMES = {"hook_points": "hook-point"}
_OUTPUT_NAMES = {"dtype": "weights-dtype"}
_LEFT_OUT = {"model", "cache"}
_ALWAYS = {"k", "tokens", "dtype", "out"}


def command_line(model: str, harvest: HarvestConfig, train: TrainConfig, output: OutputConfig) -> str:
    """`featurewatch train` with every option that differs from its default, and the dtype that `auto` stands for here.

    Args:
        model: as it was typed; so are the paths.
        harvest, train, output: the settings. The command line has one seed for harvest and training.
    """
    harvest = replace(harvest, dtype=str(forward_dtype(harvest.dtype, forward_device())).removeprefix("torch."))
    words = ["featurewatch", "train", model]
    words += _options(harvest, _NAMES, _LEFT_OUT)
    words += _options(train, _NAMES, {"seed"})
    words += _options(output, _OUTPUT_NAMES, set())
    return shlex.join(words)


def _options(config: Any, names: dict[str, str], left_out: set[str]) -> list[str]:
    words = []
    for item in fields(config):
        value = getattr(config, item.name)
        if item.name not in left_out and (value != item.default or item.name in _ALWAYS):
            words += _words("--" + names.get(item.name, item.name.replace("_", "-")), value)
    return words


def _words(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag] if value else []
    if isinstance(value, tuple):
        return [word for item in value for word in _words(flag, item)]
    return [flag, str(value)]
