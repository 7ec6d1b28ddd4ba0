"""The folder of a finished SAE: it appears whole, and what it replaces is there until then."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, load_saelens, save_saelens
from training.card.card import Card


def require_free(folders: Iterable[Path], *, replace: bool) -> None:
    """Raises FeaturewatchError when a folder is taken or cannot be made, before hours are spent on it."""
    for folder in folders:
        if folder.exists() and not replace:
            raise FeaturewatchError(
                f"output folder {folder}", "it exists already", "give another --out or --replace to overwrite it"
            )
        there = next(parent for parent in folder.absolute().parents if parent.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            raise FeaturewatchError(
                f"output folder {folder}", f"{there} must be a folder that can be written to", "give another --out"
            )


def write_sae(dictionary: Dictionary, card: Card, folder: Path, dtype: str) -> None:
    """Writes beside the target and renames, so that a half-written SAE never has the final name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        save_saelens(dictionary, new, dtype=dtype)
        stored = load_saelens(new)
        dataclasses.replace(card, sha256=stored.sha256).save(new)
        # Safetensors files are private by default; the sidecar may run as another user.
        for file in new.iterdir():
            file.chmod(0o644)
        if not folder.exists():
            new.rename(folder)
            return
        folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
