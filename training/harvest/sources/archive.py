"""Data files, plain or packed (.gz, .zst)."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from monitor.errors import FeaturewatchError

_PACKED = (".gz", ".zst")


def kind_of(path: Path) -> str:
    """The suffix that tells the format, in lower case: ``.jsonl`` of ``a.jsonl.gz``."""
    return (Path(path.stem) if path.suffix.lower() in _PACKED else path).suffix.lower()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a file.

    Raises:
        FeaturewatchError: it is missing; or, while it is read in this context, damaged or not UTF-8.
    """
    if not path.is_file():
        raise FeaturewatchError(f"data file {path}", "there is no such file", "check the path")
    try:
        with _unpacked(path) as file:
            yield file
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise FeaturewatchError(
            f"data file {path} ({error})",
            "it must be UTF-8 text, whole and, with .gz, gzipped (with .zst, packed by zstandard)",
            "fetch it again",
        ) from error


@contextlib.contextmanager
def opened_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Like `opened`, the text."""
    with opened(path) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        yield text


def _unpacked(path: Path) -> IO[bytes]:
    packing = path.suffix.lower()
    if packing == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if packing == ".zst":
        import pyarrow

        return cast(IO[bytes], pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")
