"""What tells one model, tokenizer or data file from another: hashes of their content, never names or times.

Weights are hashed whole. That takes about a second per gigabyte, less than loading them, and a fine-tune in the same
folder cannot be taken for the model before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from training.harvest.loading import load_quietly


def files_sha256(paths: Sequence[Path]) -> str:
    """SHA-256 over the SHA-256 of each file's bytes, in the given order; raises FeaturewatchError."""
    return joined_sha256([file_sha256(path) for path in paths])


def model_sha256(model: str) -> str:
    """Of the configuration and all weights of a Hugging Face folder or id. Downloads the weights of an id that is not
    there yet: two models may well share a configuration.

    Raises:
        FeaturewatchError: no such model, or it has no weights.
    """
    from transformers.utils import cached_file

    files = load_quietly(model, lambda: [Path(str(cached_file(model, "config.json"))), *_weights(model)])
    if len(files) == 1:
        raise FeaturewatchError(
            f"model {model}",
            "it has no weights (*.safetensors or *.bin)",
            "name a folder or id that holds a whole model",
        )
    return joined_sha256([f"{path.name} {file_sha256(path)}" for path in files])


def _weights(model: str) -> list[Path]:
    from transformers.utils import cached_file

    folder = Path(model).expanduser()
    if folder.is_dir():
        return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    for stem in ("model.safetensors", "pytorch_model.bin"):
        if whole := cached_file(model, stem, _raise_exceptions_for_missing_entries=False):
            return [Path(whole)]
        if index := cached_file(model, f"{stem}.index.json", _raise_exceptions_for_missing_entries=False):
            shards = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
            return [Path(str(cached_file(model, shard))) for shard in shards]
    return []


def tokenizer_sha256(tokenizer: Any) -> str:
    """Of a fast tokenizer with its special tokens and its chat template."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, special]
    return joined_sha256([json.dumps(part, sort_keys=True) for part in parts])


def file_sha256(path: Path) -> str:
    """Of a file's bytes; raises FeaturewatchError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FeaturewatchError(
            f"file {path} ({error.strerror or error})", "it must be a readable file", "check the path"
        ) from error


def joined_sha256(parts: Sequence[str]) -> str:
    """Over lines of text."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
