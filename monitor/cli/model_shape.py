"""What a model folder's config.json says about its residual stream."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError


@dataclass(frozen=True)
class ModelShape:
    """Decoder layers and residual width; None where they are not known."""

    name: str = ""
    num_layers: int | None = None
    width: int | None = None


def read_model_shape(folder: str | Path) -> ModelShape:
    """Reads a Hugging Face folder.

    Raises:
        FeaturewatchError: there is no readable config.json or it does not state layers and width.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FeaturewatchError(
            f"model {str(folder)!r} ({error})", "it must be a folder with config.json", "give a Hugging Face folder"
        ) from error
    num_layers, width = _entry(config, "num_hidden_layers"), _entry(config, "hidden_size")
    if num_layers is None or width is None:
        raise FeaturewatchError(
            f"model configuration {path}",
            "it must state num_hidden_layers and hidden_size as whole numbers, at the top or in text_config",
            "give the folder of a decoder model",
        )
    return ModelShape(Path(folder).resolve().name, num_layers, width)


def _entry(config: Any, name: str) -> int | None:
    """The entry of the language model: multimodal models nest it in text_config."""
    for block in (config, config.get("text_config") if isinstance(config, dict) else None):
        value = block.get(name) if isinstance(block, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
