"""The folder of a finished SAE: it appears whole, and what it replaces is there until then."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, load_saelens, save_saelens
from training import durable
from training.card.card import Card
from training.command import RUN_FILE


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


def write_sae(
    dictionary: Dictionary, card: Card, folder: Path, dtype: str, *, run_text: str = "", logs: Path | None = None
) -> None:
    """Writes beside the target and renames, so that a half-written SAE never has the final name, not even after a
    power failure.

    Args:
        dictionary: as it is to be stored.
        card: its card; the hash is filled in.
        folder: of the SAE.
        dtype: of the stored weights.
        run_text: of run.yaml.
        logs: folder whose files become ``logs/``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        save_saelens(dictionary, new, dtype=dtype)
        stored = load_saelens(new)
        dataclasses.replace(card, sha256=stored.sha256).save(new)
        if run_text:
            (new / RUN_FILE).write_text(run_text)
        if logs is not None:
            shutil.copytree(logs, new / "logs")
        # Safetensors files are private by default; the sidecar may run as another user.
        for file in new.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        durable.sync_tree(new)
        _put(new, folder, old)
        durable.sync_folder(folder.parent)


def _put(new: Path, folder: Path, old: Path) -> None:
    """Gives the new folder its name; what had it goes to `old`."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
