"""Documents from .jsonl, .jsonl.gz and .txt files."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monitor.errors import FeaturewatchError


@dataclass(frozen=True)
class Document:
    """One text with what is known of its origin.

    Attributes:
        text: of the document or of a passage of it.
        source, category, licence: of the text.
        document: name of the document within its source that the text is a passage of; empty if unknown.
    """

    text: str
    source: str = ""
    category: str = ""
    licence: str = ""
    document: str = ""

    @property
    def digest(self) -> int:
        """64 bits of the text's SHA-256: seeds the random choices within the text."""
        return _digest(self.text)

    def is_held_out(self, share: float) -> bool:
        """By a hash of source and document, so that passages of one document stay together, else of the text."""
        digest = _digest(json.dumps([self.source, self.document])) if self.document else self.digest
        return digest % 1_000_003 < share * 1_000_003


def read_documents(paths: Sequence[Path], text_field: str = "text", document_field: str = "doc") -> Iterator[Document]:
    """Documents of all files in order; blank texts are left out.

    Args:
        paths: of the files.
        text_field: field of a row that holds its text.
        document_field: field that names the document a row is a passage of; rows may lack it.

    Raises:
        FeaturewatchError: a file is missing, is not UTF-8 text, is not JSON lines or lacks the text field.
    """
    for path in paths:
        with _open(path) as lines:
            yield from (
                _read_text(path, lines)
                if _suffix(path) == ".txt"
                else _read_jsonl(path, lines, text_field, document_field)
            )


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each row of a .jsonl or .jsonl.gz file; raises FeaturewatchError."""
    with _open(path) as lines:
        yield from _rows(path, lines)


def shuffled(documents: Sequence[Document], seed: int) -> list[Document]:
    """The documents in an order that depends on the seed alone."""
    order = np.random.default_rng(seed).permutation(len(documents))
    return [documents[index] for index in order]


def require_some(documents: Sequence[Document], paths: Sequence[Path]) -> None:
    """Raises FeaturewatchError when no text was found."""
    if not documents:
        raise FeaturewatchError(
            f"data {', '.join(map(str, paths))}", "the files hold no text", "give files with at least one document"
        )


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _suffix(path: Path) -> str:
    return (Path(path.stem) if _is_gzipped(path) else path).suffix.lower()


def _is_gzipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _open(path: Path) -> io.TextIOBase:
    if not path.is_file():
        raise FeaturewatchError(f"data file {path}", "there is no such file", "check the path given to --data")
    if _is_gzipped(path):
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8")
    return path.open(encoding="utf-8")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise FeaturewatchError(
            f"data file {path} ({error})", "it must be UTF-8 text, whole and, with .gz, gzipped", "fetch it again"
        ) from error


def _read_text(path: Path, lines: io.TextIOBase) -> Iterator[Document]:
    """A plain text file: paragraphs are gathered into documents of about 6,000 characters."""
    paragraphs: list[str] = []
    size = 0
    with _readable(path):
        text = lines.read()
    for paragraph in text.split("\n\n"):
        paragraphs.append(paragraph)
        size += len(paragraph)
        if size >= 6000:
            yield Document("\n\n".join(paragraphs))
            paragraphs, size = [], 0
    if "".join(paragraphs).strip():
        yield Document("\n\n".join(paragraphs))


def _read_jsonl(path: Path, lines: io.TextIOBase, text_field: str, document_field: str) -> Iterator[Document]:
    for number, row in _rows(path, lines):
        text = row.get(text_field)
        if not isinstance(text, str):
            raise FeaturewatchError(
                f"{path}:{number} with fields {', '.join(sorted(row)) or 'none'}",
                f"each row needs a text in field {text_field!r}",
                "name the right field with --text-field",
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise FeaturewatchError(
                f"{path}:{number}", "the text holds half of a surrogate pair, which is no character", "repair the row"
            ) from error
        if text.strip():
            yield Document(text, *(_named(row, key) for key in ("source", "category", "licence", document_field)))


def _named(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value)


def _rows(path: Path, lines: io.TextIOBase) -> Iterator[tuple[int, dict[str, Any]]]:
    with _readable(path):
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _row(path, number, line)


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise FeaturewatchError(f"{path}:{number} ({error})", "each line must be JSON", "repair the file") from error
    if not isinstance(row, dict):
        raise FeaturewatchError(f"{path}:{number}", "each line must be a JSON object", "repair the file")
    return row
