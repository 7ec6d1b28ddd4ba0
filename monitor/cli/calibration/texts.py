"""Texts to calibrate on, from jsonl files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from training.harvest.sources.jsonl import read_rows, require_characters

_TRAIN = "train"
# Prompt and response.
_Text = tuple[str, str | None]


@dataclass(frozen=True)
class Sample:
    """One text with its label.

    Attributes:
        name: file and line.
        prompt: a user turn.
        response: what the model answered; None where only the prompt is given.
    """

    name: str
    prompt: str
    response: str | None
    is_harmful: bool
    source: str
    category: str

    @property
    def text(self) -> tuple[str, str | None]:
        """By which it is told from others."""
        return self.prompt, self.response


@dataclass(frozen=True)
class Texts:
    """Attributes:

    samples: in the order of the files, each text once.
    benign, harmful: what the files are called, with the hash of their bytes; None where a label does not occur.
    left_out: why, and how many.
    notes: what the reader must know of them.
    """

    samples: list[Sample]
    benign: str | None
    harmful: str | None
    left_out: dict[str, int]
    notes: tuple[str, ...]


def read_texts(
    labelled: Sequence[Path], benign: Sequence[Path], harmful: Sequence[Path], *, split: str = "", limit: int = 0
) -> Texts:
    """Rows with ``text`` or ``prompt``, perhaps ``response``, ``source``, ``category`` and ``split``; those of
    `labelled` files have a ``label`` 0 (benign) or 1.

    Args:
        split: only rows with this ``split``; empty takes all.
        limit: at most so many texts of each label, chosen by a hash of their text; 0 takes all.

    Raises:
        FeaturewatchError: no such file, or a row without text or label; nothing is left.
    """
    files = [*((path, None) for path in labelled), *((path, 0) for path in benign), *((path, 1) for path in harmful)]
    left_out: Counter[str] = Counter()
    by_text: dict[_Text, list[Sample]] = {}
    trained_on: set[_Text] = set()
    for path, label in files:
        for number, row in read_rows(path):
            sample = _sample(f"{path}:{number}", path.name, row, label)
            # Also a text of another split may be one that a probe was fitted on.
            if row.get("split") == _TRAIN:
                trained_on.add(sample.text)
            if split and row.get("split") != split:
                left_out[f"not of split {split}"] += 1
            elif not sample.prompt.strip():
                left_out["empty"] += 1
            else:
                by_text.setdefault(sample.text, []).append(sample)
    samples = []
    for same in by_text.values():
        if len({sample.is_harmful for sample in same}) > 1:
            left_out["given with both labels"] += len(same)
            continue
        samples.append(same[0])
        left_out["given twice"] += len(same) - 1
    if limit:
        left_out["over --limit"] = len(samples)
        samples = _limited(samples, limit)
        left_out["over --limit"] -= len(samples)
    if not samples:
        raise FeaturewatchError(
            f"texts in {', '.join(str(path) for path, _ in files)}",
            f"none is left ({', '.join(f'{count:,} {why}' for why, count in left_out.items() if count) or 'no rows'})",
            "check the files and --split",
        )
    found = {sample.is_harmful for sample in samples}
    given = {False: [*labelled, *benign], True: [*labelled, *harmful]}
    chosen = f" (split {split})" if split else ""
    chosen += f" (at most {limit})" if limit else ""
    names = {label: data_name(paths, chosen) for label, paths in given.items() if label in found}
    told = {why: count for why, count in left_out.items() if count}
    return Texts(samples, names.get(False), names.get(True), told, _notes(samples, trained_on))


def _notes(samples: Sequence[Sample], trained_on: Collection[_Text]) -> tuple[str, ...]:
    benign = [sample.text for sample in samples if not sample.is_harmful]
    count = sum(text in trained_on for text in benign)
    if not count:
        return ()
    return (
        f"{count:,} of {len(benign):,} benign texts are given with split {_TRAIN}: if a probe of this policy was "
        "fitted on them, their scores are lower than those of new text, and the promise does not hold. Choose others, "
        "e.g. with --split.",
    )


def data_name(paths: Sequence[Path], chosen: str = "") -> str:
    """``name@sha256:…`` of one file, or of several one behind the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"{' + '.join(path.name for path in paths)}{chosen}@sha256:{digest.hexdigest()}"


def _sample(name: str, file: str, row: dict[str, Any], label: int | None) -> Sample:
    prompt, response = row.get("prompt", row.get("text")), row.get("response")
    if not isinstance(prompt, str) or not (response is None or isinstance(response, str)):
        raise FeaturewatchError(
            f"{name} with {', '.join(sorted(row)[:8]) or 'no fields'}",
            "each row needs a string text (or prompt), and a response, if there is one, is a string",
            "repair the row",
        )
    label = row.get("label") if label is None else label
    if isinstance(label, bool) or label not in (0, 1):
        raise FeaturewatchError(
            f"{name} with label {label!r}",
            "in a file of --data each row has a label: 0 (benign) or 1 (harmful)",
            "add the labels, or give the file with --benign or --harmful",
        )
    require_characters(prompt + (response or ""), name)
    source = row.get("source")
    return Sample(
        name,
        prompt,
        response,
        label == 1,
        source if isinstance(source, str) and source else file.partition(".")[0],
        str(row.get("category") or ""),
    )


def _limited(samples: Sequence[Sample], limit: int) -> list[Sample]:
    """As many of each label; the same ones for the same texts, whatever the order of the rows."""

    def by_hash(sample: Sample) -> bytes:
        return hashlib.sha256(f"{sample.prompt}\0{sample.response}".encode()).digest()

    chosen: set[str] = set()
    for is_harmful in (False, True):
        of_label = sorted((sample for sample in samples if sample.is_harmful == is_harmful), key=by_hash)
        chosen |= {sample.name for sample in of_label[:limit]}
    return [sample for sample in samples if sample.name in chosen]


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """`items` in parts of at most `size`."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
