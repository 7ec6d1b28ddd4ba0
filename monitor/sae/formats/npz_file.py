"""Reads numpy archives whose sizes have been checked before anything is unpacked."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError

MOST_BYTES: Final = 64 << 30
"""Unpacked, of all arrays together. The largest public SAE (Gemma Scope, 1M latents) has 19 GB."""
MOST_TIMES: Final = 100
"""Unpacked, against the file. Weights hardly shrink (Gemma Scope: to the half); what shrinks more is no SAE."""


class NpzArrays(Mapping[str, npt.NDArray[Any]]):
    """Arrays of an npz file, unpacked when they are asked for.

    Raises:
        FeaturewatchError: it is damaged, holds Python objects, or is too large unpacked (at once, from the headers).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                require_size(path, sum(entry.file_size for entry in entries))
                for entry in entries:
                    with archive.open(entry) as file:
                        self._check_header(entry, file)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
            raise _damaged(path, error) from error
        self._names = [entry.filename.removesuffix(".npy") for entry in entries]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                array: npt.NDArray[Any] = archive[name]
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise _damaged(self._path, error) from error
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _check_header(self, entry: zipfile.ZipInfo, file: Any) -> None:
        if not entry.filename.endswith(".npy"):
            raise FeaturewatchError(
                f"{self._path} with an entry {entry.filename!r}", "an npz file holds npy arrays", "download it again"
            )
        header: Any = np.lib.format
        read_header = {(1, 0): header.read_array_header_1_0, (2, 0): header.read_array_header_2_0}
        version = header.read_magic(file)
        if version not in read_header:
            raise ValueError(f"npy version {version}")
        shape, _, dtype = read_header[version](file)
        if dtype.hasobject:
            raise FeaturewatchError(
                f"{self._path} with Python objects in {entry.filename!r}",
                "reading them would run code from the file",
                "use an SAE that is stored as plain arrays",
            )
        if file.tell() + math.prod(shape) * dtype.itemsize != entry.file_size:
            raise ValueError(f"{entry.filename} has {entry.file_size} bytes, its header says other")


def require_size(path: Path, unpacked: int) -> None:
    """Raises FeaturewatchError where `unpacked` bytes out of the file at `path` are more than an SAE can have."""
    stored = path.stat().st_size
    if unpacked > min(MOST_BYTES, MOST_TIMES * stored):
        raise FeaturewatchError(
            f"{path} of {stored:,} bytes that would unpack to {unpacked:,}",
            f"an SAE file unpacks to at most {MOST_BYTES >> 30} GiB and {MOST_TIMES} times its size",
            "do not open this file; download the SAE from its source",
        )


def _damaged(path: Path, error: Exception) -> FeaturewatchError:
    return FeaturewatchError(
        f"SAE weights {path} ({error})", "the file must be a complete npz archive", "download the SAE again"
    )
