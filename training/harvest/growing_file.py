"""A file of the cache while it is filled."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from monitor.errors import FeaturewatchError


class GrowingFile:
    """Appends to a file that is open only while it is written: shards times hook points may be thousands.

    What an interrupted run wrote beyond `size` bytes is cut off.

    Args:
        path: of the file, which need not be there.
        size: bytes that count.
        checksum: CRC-32 of these; None where it was not noted, then it is computed.
    """

    def __init__(self, path: Path, size: int, checksum: int | None) -> None:
        path.touch()
        held = path.stat().st_size
        if held < size:
            raise FeaturewatchError(
                f"cache file {path} of {held} bytes",
                f"the manifest counts {size}",
                "remove the cache folder and harvest again",
            )
        os.truncate(path, size)
        self.checksum = crc32(path, size) if checksum is None else checksum
        self._path, self._is_dirty = path, False

    def append(self, data: bytes) -> None:
        if data:
            with self._path.open("ab") as file:
                file.write(data)
            self.checksum = zlib.crc32(data, self.checksum)
            self._is_dirty = True

    def sync(self) -> None:
        """Brings what was appended to the disk."""
        if self._is_dirty:
            with self._path.open("rb+") as file:
                os.fsync(file.fileno())
            self._is_dirty = False


def crc32(path: Path, size: int) -> int:
    """CRC-32 of the first `size` bytes of a file, read from front to back."""
    found = 0
    view = memoryview(bytearray(4 << 20))
    with path.open("rb", buffering=0) as file:
        while size and (count := file.readinto(view[:size])):
            found = zlib.crc32(view[:count], found)
            size -= count
    return found
