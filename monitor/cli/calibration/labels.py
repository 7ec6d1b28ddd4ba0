"""Labels that people gave to recorded generations, from jsonl files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from monitor.v1.generations_pb2 import GenerationSummary
from training.harvest.sources.jsonl import read_rows, require_characters

_ID_FIELDS = ("id", "generation_id")


@dataclass(frozen=True)
class Label:
    """Attributes:

    place: file and line.
    id: of the generation or its request, or the client's id of that; whole.
    source, category: empty where the row has none.
    """

    place: str
    id: str
    is_harmful: bool
    source: str
    category: str


@dataclass(frozen=True)
class Matched:
    """Attributes:

    by_generation: labels by generation_id.
    unknown: ids that no generation has.
    """

    by_generation: dict[str, Label]
    unknown: tuple[str, ...]


def read_labels(files: Sequence[Path]) -> list[Label]:
    """Rows with ``id`` (or ``generation_id``), a ``label`` 0 (benign) or 1 (harmful), perhaps ``source`` and
    ``category``; other fields, such as the text, are not looked at.

    Raises:
        FeaturewatchError: no such file, a row without id or label, or an id that comes twice.
    """
    found: dict[str, Label] = {}
    for path in files:
        for number, row in read_rows(path):
            label = _label(f"{path}:{number}", row)
            if (earlier := found.get(label.id)) is not None:
                raise _twice(label, earlier)
            found[label.id] = label
    if not found:
        raise FeaturewatchError(
            f"labels in {', '.join(map(str, files))}", "there is no row", "give a line for each labelled generation"
        )
    return [*found.values()]


def match_labels(labels: Iterable[Label], summaries: Iterable[GenerationSummary]) -> Matched:
    """Finds the generations that are meant. A generation's own id goes before ids that clients choose.

    Raises:
        FeaturewatchError: an id is that of several generations, or two labels are for one; no label fits any.
    """
    wanted = {label.id: label for label in labels}
    own: set[str] = set()
    named: dict[str, set[str]] = {}
    for summary in summaries:
        if summary.generation_id in wanted:
            own.add(summary.generation_id)
        for name in (summary.request_id, summary.external_id):
            if name in wanted:
                named.setdefault(name, set()).add(summary.generation_id)
    found: dict[str, Label] = {}
    unknown = []
    for name, label in wanted.items():
        meant = {name} if name in own else named.get(name, set())
        if not meant:
            unknown.append(name)
            continue
        if len(meant) > 1:
            raise FeaturewatchError(
                f"{label.place} with id {name!r}",
                f"{len(meant):,} generations have it: {', '.join(sorted(meant)[:3])}"
                f"{' and more' if len(meant) > 3 else ''}",
                "give the generation's own id, which `featurewatch audit list --json` shows as generation_id",
            )
        (generation,) = meant
        if (earlier := found.get(generation)) is not None:
            raise _twice(label, earlier)
        found[generation] = label
    if not found:
        raise FeaturewatchError(
            f"labels, e.g. of {unknown[0]!r} ({len(unknown):,} in all)",
            "the store has none of these generations",
            "check --records, and that ids are whole, as `featurewatch audit list --json` shows them",
        )
    return Matched(found, tuple(unknown))


def _label(place: str, row: dict[str, Any]) -> Label:
    names = [row[field] for field in _ID_FIELDS if field in row]
    if len(names) != 1 or not isinstance(names[0], str) or not names[0]:
        raise FeaturewatchError(
            f"{place} with {', '.join(sorted(row)[:8]) or 'no fields'}",
            f"each row names one recorded generation: {' or '.join(_ID_FIELDS)}, a string",
            "add the generation's id; texts that were not recorded go to --data",
        )
    label = row.get("label")
    if isinstance(label, bool) or label not in (0, 1):
        raise FeaturewatchError(
            f"{place} with label {label!r}", "a label is 0 (benign) or 1 (harmful)", "repair the row, or leave it out"
        )
    source, category = (str(row.get(field) or "") for field in ("source", "category"))
    require_characters(names[0] + source + category, place)
    return Label(place, names[0], label == 1, source, category)


def _twice(label: Label, earlier: Label) -> FeaturewatchError:
    both = (int(earlier.is_harmful), int(label.is_harmful))
    told = "with the same label" if both[0] == both[1] else f"as {both[0]}, here as {both[1]}"
    return FeaturewatchError(
        f"{label.place} with id {label.id!r}",
        f"{earlier.place} labels this generation already, {told}",
        "keep one of the two lines",
    )
