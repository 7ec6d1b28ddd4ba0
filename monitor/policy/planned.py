"""Fields and values of the final format that this version refuses by name instead of ignoring them."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Fields, by the path of the block they belong to.
FIELDS: dict[str, frozenset[str]] = {
    "spec": frozenset({"sensitivity"}),
    "spec.match": frozenset({"routes", "adapters"}),
    "spec.detectors[].source": frozenset({"absence"}),
    "spec.rules[]": frozenset({"steer", "escalate", "inline"}),
    "spec.record": frozenset({"contextTokens", "topFeatures", "retention", "contentRetention"}),
}

#: Values, by the path of their field.
VALUES: dict[str, frozenset[str]] = {
    "spec.rules[].actions[]": frozenset({"trace", "annotate", "escalate", "steer", "stop"}),
    "spec.record.content": frozenset({"hash", "redacted"}),
}

_INDEX = re.compile(r"\[[0-9]+\]")
_WINDOWS = re.compile(r"[1-9][0-9]* windows?")
#: How a refusal by name reads.
RULE = "not implemented in this version"


def is_planned_field(block: str, name: str) -> bool:
    """`block` is the path of the block around the field."""
    return name in FIELDS.get(_INDEX.sub("[]", block), ())


def is_planned_value(path: str, value: object) -> bool:
    """`path` is the path of the field that has the value."""
    pattern = _INDEX.sub("[]", path)
    if pattern == "spec.rules[].for":
        return isinstance(value, str) and _WINDOWS.fullmatch(value) is not None
    return isinstance(value, str) and value in VALUES.get(pattern, ())


def planned_fields(data: object, path: str = "") -> Iterator[tuple[str, str, object]]:
    """Path, name and value of everything in a file's plain fields that is refused by name; of a value the name is
    empty."""
    if isinstance(data, dict):
        for name, value in data.items():
            inner = f"{path}.{name}" if path else name
            if is_planned_field(path, name):
                yield inner, name, value
            else:
                yield from planned_fields(value, inner)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from planned_fields(value, f"{path}[{index}]")
    elif is_planned_value(path, data):
        yield path, "", data
