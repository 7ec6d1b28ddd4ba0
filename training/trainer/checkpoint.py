"""Checkpoints: one safetensors file whose metadata holds the rest as JSON, replaced in one rename."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from monitor.errors import FeaturewatchError
from training import durable

State = tuple[dict[str, Tensor], dict[str, Any]]


def save_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes beside the target and renames: a reader sees the old state or the new one, after a power failure too."""
    durable.make_folder(path.parent)
    part = path.with_name(f".{path.name}.part")
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(held, part, metadata={"facts": json.dumps(facts)})
    durable.replace(part, path)


def load_state(path: Path) -> State | None:
    """None when there is no such file; raises FeaturewatchError when it is damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 – no mapping
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FeaturewatchError(
            f"checkpoint {path} ({error})",
            "it must be whole and of this version of featurewatch",
            "remove it: the training of this SAE then begins anew",
        ) from error
