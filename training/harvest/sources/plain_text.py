"""Paragraphs of .txt files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.harvest.sources.archive import opened_text

_CHUNK = 1 << 20


def read_passages(path: Path, size: int) -> Iterator[str]:
    """Paragraphs (between blank lines) gathered into passages of about `size` characters; raises FeaturewatchError."""
    paragraphs: list[str] = []
    length = 0
    for paragraph in _paragraphs(path):
        paragraphs.append(paragraph)
        length += len(paragraph)
        if length >= size:
            yield "\n\n".join(paragraphs)
            paragraphs, length = [], 0
    yield "\n\n".join(paragraphs)


def _paragraphs(path: Path) -> Iterator[str]:
    rest = ""
    with opened_text(path) as text:
        while chunk := text.read(_CHUNK):
            *whole, rest = (rest + chunk).split("\n\n")
            yield from whole
    yield rest
