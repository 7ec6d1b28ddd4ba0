"""Documents from files (.jsonl, .parquet, .txt; plain, .gz or .zst) and Hugging Face data sets (``hf:NAME``)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from training.harvest.sources.archive import kind_of
from training.harvest.sources.hub import HubData, is_hub, read_hub
from training.harvest.sources.jsonl import read_rows
from training.harvest.sources.parquet import read_parquet
from training.harvest.sources.plain_text import read_passages
from training.harvest.sources.turns import TURN_FIELDS, turns_of

_PASSAGE = 6000
_ORIGIN = ("source", "category", "licence")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """One text with what is known of its origin.

    Attributes:
        text: of the document or of a passage of it; of a conversation, that of its turns.
        source, category, licence: of the text.
        document: name of the document within its source that the text is a passage of; empty if unknown.
        turns: role and text of the turns of a conversation.
    """

    text: str
    source: str = ""
    category: str = ""
    licence: str = ""
    document: str = ""
    turns: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> int:
        """64 bits of the text's SHA-256: seeds the random choices within the text."""
        return _digest(self.text)

    def is_held_out(self, share: float) -> bool:
        """By a hash of source and document, so that passages of one document stay together, else of the text."""
        digest = _digest(json.dumps([self.source, self.document])) if self.document else self.digest
        return digest % 1_000_003 < share * 1_000_003


def read_documents(paths: Sequence[Path], text_field: str = "text", document_field: str = "doc") -> Iterator[Document]:
    """Documents of all files and data sets in order, one at a time; blank texts are left out.

    Args:
        paths: of the files; ``hf:NAME`` for a data set.
        text_field: field of a row that holds its text or its turns.
        document_field: field that names the document a row is a passage of; rows may lack it.

    Raises:
        FeaturewatchError: a file is missing, damaged, of another format, or a row lacks the text.
    """
    for path in paths:
        yield from read_source(path, text_field, document_field)


def read_source(path: Path, text_field: str, document_field: str) -> Iterator[Document]:
    """Documents of one file or data set; see `read_documents`."""
    fields = {text_field, document_field, *TURN_FIELDS, *_ORIGIN}
    if is_hub(path):
        data = HubData.parse(str(path))
        return _documents(str(data), read_hub(data), text_field, document_field)
    kind = kind_of(path)
    if kind == ".txt":
        return (Document(passage) for passage in read_passages(path, _PASSAGE) if passage.strip())
    if kind == ".parquet":
        return _documents(str(path), read_parquet(path, fields), text_field, document_field)
    if kind in (".jsonl", ".json", ".ndjson"):
        return _documents(str(path), read_rows(path), text_field, document_field)
    raise FeaturewatchError(
        f"data file {path}",
        "data are .jsonl, .parquet or .txt files, plain or with .gz or .zst behind, or hf:NAME for a data set",
        "convert it, or give it the suffix of what it is",
    )


def shuffled_order(count: int, seed: int) -> npt.NDArray[np.int64]:
    """The numbers below `count` in an order that depends on the seed alone."""
    return np.random.default_rng(seed).permutation(count)


def require_some(documents: Sequence[Document], paths: Sequence[Path]) -> None:
    """Raises FeaturewatchError when no text was found."""
    if not documents:
        raise FeaturewatchError(
            f"data {', '.join(map(str, paths))}", "the files hold no text", "give files with at least one document"
        )


def _documents(
    name: str, rows: Iterable[tuple[int, dict[str, Any]]], text_field: str, document_field: str
) -> Iterator[Document]:
    blank: list[int] = []
    for number, row in rows:
        text, turns = _text(f"{name}:{number}", row, text_field)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise FeaturewatchError(
                f"{name}:{number}", "the text holds half of a surrogate pair, which is no character", "repair the row"
            ) from error
        if text.strip():
            source, category, licence, document = (_named(row, key) for key in (*_ORIGIN, document_field))
            yield Document(text, source, category, licence, document, turns)
        else:
            blank.append(number)
    if blank:
        _logger.warning("%s: %s rows without text are left out, the first is row %s", name, len(blank), blank[0])


def _text(place: str, row: dict[str, Any], text_field: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Text and turns of a row; a conversation counts where the row has no text."""
    for field in (text_field, *TURN_FIELDS):
        value = row.get(field)
        if isinstance(value, str) and field == text_field:
            return value, ()
        if value is not None and (turns := turns_of(value)) is not None:
            return "\n\n".join(text for _, text in turns), turns
    raise FeaturewatchError(
        f"{place} with fields {', '.join(sorted(row)) or 'none'}",
        f"each row needs a text in field {text_field!r}, or turns of role and content in {' or '.join(TURN_FIELDS)}",
        "name the right field with --text-field",
    )


def _named(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
