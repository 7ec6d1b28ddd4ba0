"""Finds dictionaries by id in a list of folders."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.saelens import CONFIG_FILE, load_saelens


class Catalog:
    """Dictionaries below one or more root folders.

    An id is the path below its root, e.g. ``smollm2-135m-instruct/resid_post.14``.

    Loaded dictionaries are kept, so each is read once.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = [Path(root) for root in roots]
        self._loaded: dict[str, Dictionary] = {}

    def ids(self) -> list[str]:
        """All ids, sorted."""
        return sorted(
            {
                config.parent.relative_to(root).as_posix()
                for root in self._roots
                if root.is_dir()
                for config in root.rglob(CONFIG_FILE)
            }
        )

    def path(self, sae_id: str) -> Path:
        """Folder of an SAE; raises FeaturewatchError with the nearest known id."""
        # No path holds a NUL, and the system refuses to look for one.
        for root in self._roots if "\0" not in sae_id else ():
            folder = (root / sae_id).resolve()
            if folder.is_relative_to(root.resolve()) and (folder / CONFIG_FILE).is_file():
                return folder
        known = self.ids()
        near = difflib.get_close_matches(sae_id, known, n=1, cutoff=0.4)
        listing = ", ".join(known) or "none"
        raise FeaturewatchError(
            f"SAE {sae_id!r}",
            f"no such SAE below {', '.join(map(str, self._roots))} (known: {listing})",
            f"did you mean {near[0]!r}" if near else "train one with `featurewatch train` or add its folder with --zoo",
        )

    def load(self, sae_id: str) -> Dictionary:
        """The dictionary in normal form; raises FeaturewatchError when it is unknown or damaged."""
        if sae_id not in self._loaded:
            self._loaded[sae_id] = load_saelens(self.path(sae_id))
        return self._loaded[sae_id]
