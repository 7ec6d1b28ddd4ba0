"""The command line that repeats a training."""

from __future__ import annotations

import shlex
from typing import Any

from training.settings.keys import Key, all_keys
from training.settings.run_config import RunConfig

RUN_FILE = "run.yaml"
_ALWAYS = ("tokens", "dtype", "out")


def command_line(config: RunConfig) -> str:
    """`featurewatch train` with every option that was given and differs from its default, and the dtype that `auto`
    stands for here; model and paths as they were typed. A run whose SAEs are a list, and no product of settings, is
    repeated from its file."""
    if config.entries:
        return shlex.join(["featurewatch", "train", "--config", RUN_FILE])
    words = ["featurewatch", "train", config.model_as_typed]
    values = config.to_repeat()
    for key in all_keys().values():
        if key.name in values and (key.name in _ALWAYS or values[key.name] != key.default):
            words += _words(key, values[key.name])
    return shlex.join(words)


def _words(key: Key, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [key.flag if value else f"--no-{key.flag[2:]}"]
    if isinstance(value, list):
        return [word for item in value for word in _words(key, item)]
    return [key.flag, str(value)]
