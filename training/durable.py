"""Files and their names on the disk: what is there after a call is there after a power failure."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# Some network file systems cannot bring a folder to the disk; there is nothing more to be done there.
_UNABLE = (errno.EINVAL, errno.ENOTSUP)


def make_folder(folder: Path) -> None:
    """Makes the folder and those above it that are missing."""
    missing = [place for place in (folder.absolute(), *folder.absolute().parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def replace(part: Path, path: Path) -> None:
    """Gives a written file its final name: a reader sees the old content or the new one, now and after a failure."""
    _sync_file(part)
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, not what the files hold."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(held)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
    finally:
        os.close(held)


def sync_tree(folder: Path) -> None:
    """Brings all files in a folder and below it to the disk, and their names."""
    for place in (folder, *folder.rglob("*")):
        if place.is_dir():
            sync_folder(place)
        else:
            _sync_file(place)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
