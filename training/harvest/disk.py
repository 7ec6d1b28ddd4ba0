"""Room on the disk: what a cache will take, and what is said when there is too little."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from monitor.errors import FeaturewatchError
from training.harvest.store import held_as

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def bytes_needed(rows: int, widths: Iterable[int], store_dtype: str) -> int:
    """Disk bytes of the training rows of hook points of these widths."""
    return rows * sum(widths) * held_as(store_dtype).itemsize


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raises FeaturewatchError unless `needed` bytes are free on the disk of a cache folder.

    Args:
        folder: of the cache; it need not be there yet.
        needed: bytes still to be written.
        what: needs them, for the message.
    """
    free = shutil.disk_usage(nearest_folder(folder)).free
    if needed > free:
        raise FeaturewatchError(
            f"activation cache {folder} with {free / 1e9:.1f} GB free",
            f"{what} need {needed / 1e9:.1f} GB",
            "harvest fewer --tokens, use --store-dtype float16 or another --cache disk",
        )


def nearest_folder(folder: Path) -> Path:
    """The folder, or the closest one above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


@contextlib.contextmanager
def full_disk_is_told(cache: Path | None) -> Iterator[None]:
    """Turns a disk that fills up into a FeaturewatchError that says how to go on.

    Args:
        cache: folder of the activation cache that is written; None for the system's folder for temporary files.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        if cache is None:
            raise FeaturewatchError(
                f"folder for temporary files {tempfile.gettempdir()} ({error.strerror})",
                "its disk filled up; the documents lie there while sequences are drawn from them",
                "make room, set TMPDIR to a folder on another disk, or give less text",
            ) from error
        raise FeaturewatchError(
            f"activation cache {cache} ({error.strerror})",
            "the disk filled up during the harvest; what the manifest counts is kept",
            "make room and give the same command again: it goes on from there",
        ) from error
