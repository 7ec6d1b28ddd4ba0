"""One file of a cache while it is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from monitor.errors import FeaturewatchError
from training.harvest.growing_file import crc32
from training.harvest.store import Stored


class Shard:
    """A matrix in a file, memory-mapped.

    Args:
        path: of the file.
        rows, width: shape; bytes beyond it are of a harvest that was interrupted and do not count.
        held: dtype of the values in the file.
        checksum: CRC-32 of the file; None where none was noted.
    """

    def __init__(self, path: Path, rows: int, width: int, held: np.dtype[Any], checksum: int | None) -> None:
        self.size = rows * width * held.itemsize
        self._path, self._checksum = path, checksum
        self._shape, self._held = (rows, width), held
        self._is_proven = False

    def read(self) -> None:
        """Brings the file into the page cache, in order; the first time it is compared with its checksum.

        Raises:
            FeaturewatchError: it is not what the harvest wrote.
        """
        if self._is_proven or self._checksum is None:
            with self._path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        else:
            self.prove()

    def prove(self) -> None:
        """Compares the file with its size and checksum; raises FeaturewatchError."""
        held = self._path.stat().st_size if self._path.is_file() else 0
        if held < self.size:
            raise self._damaged(f"it has {held:,} bytes, and the manifest counts {self.size:,}")
        if self._checksum is not None and crc32(self._path, self.size) != self._checksum:
            raise self._damaged("its checksum is not the one that the harvest noted")
        self._is_proven = True

    def mapped(self) -> Stored:
        """[n, width] as they are on disk, memory-mapped; the file is open as long as this array is there."""
        if not self._is_proven:
            self.prove()
        if not self._shape[0]:
            return np.empty(self._shape, self._held)
        # A plain array: fancy indexing of a memmap is slower.
        return np.asarray(np.memmap(self._path, self._held, "r", shape=self._shape))

    def _damaged(self, what: str) -> FeaturewatchError:
        return FeaturewatchError(
            f"cache file {self._path}",
            f"{what}: it was damaged or changed after the harvest",
            "remove the cache folder and harvest again",
        )
