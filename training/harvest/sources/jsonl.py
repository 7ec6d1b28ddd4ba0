"""Rows of .jsonl files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from training.harvest.sources.archive import opened_text


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each row of a file, plain or packed; raises FeaturewatchError."""
    with opened_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _row(path, number, line)


def require_characters(text: str, place: str) -> None:
    """Raises FeaturewatchError, with the place, where a text of a row cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FeaturewatchError(
            place, "the row holds half of a surrogate pair, which is no character", "repair the row"
        ) from error


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FeaturewatchError(f"{path}:{number} ({error})", "each line must be JSON", "repair the file") from error
    if not isinstance(row, dict):
        raise FeaturewatchError(f"{path}:{number}", "each line must be a JSON object", "repair the file")
    return row
