"""Tokenizers by folder, each read once."""

from __future__ import annotations

import logging
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.sidecar.tokenizer import TokenReader

_log = logging.getLogger(__name__)


class TokenizerCache:
    """The operator's tokenizer for every tap, or else the one that a tap's engine names."""

    def __init__(self, forced: Path | None) -> None:
        """`forced` is the folder from --tokenizer; raises FeaturewatchError when it cannot be read."""
        self._forced = None if forced is None else TokenReader.load(forced)
        self._readers: dict[str, TokenReader] = {}

    def reader_for(self, folder: str) -> TokenReader:
        """Never raises: without a readable tokenizer.json transcripts show token ids."""
        if self._forced is not None:
            return self._forced
        if folder not in self._readers:
            self._readers[folder] = _load(folder)
        return self._readers[folder]


def _load(folder: str) -> TokenReader:
    if not folder:
        _log.warning("the tap names no tokenizer: transcripts show token ids; give its folder with --tokenizer")
        return TokenReader.unknown()
    try:
        return TokenReader.load(Path(folder))
    except FeaturewatchError as error:
        _log.warning("transcripts show token ids: %s", error)
        return TokenReader.unknown()
