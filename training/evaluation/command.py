"""The command line that repeats an evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from training.evaluation.config import EvalConfig

_NAMES = {"probes": "probe", "ks": "probe-k"}
_LEFT_OUT = {"model", "replace"}
_ALWAYS = {"tokens", "loss_tokens", "out"}


def command_line(model: str, saes: Sequence[str], config: EvalConfig, options: Sequence[tuple[str, str]] = ()) -> str:
    """`featurewatch sae eval` with every option that differs from its default; names and paths as they were typed."""
    words = ["featurewatch", "sae", "eval", *saes, "--model", model]
    words += [word for pair in options for word in pair]
    for item in fields(config):
        value = getattr(config, item.name)
        if item.name not in _LEFT_OUT and (value != item.default or item.name in _ALWAYS):
            words += _words("--" + _NAMES.get(item.name, item.name.replace("_", "-")), value)
    return shlex.join(words)


def _words(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag] if value else []
    if isinstance(value, tuple):
        return [word for item in value for word in _words(flag, item)]
    return [flag, str(value)]
