"""Rules between the fields of one block as JSON Schema says them, so that editors know them as well as `rules`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def fields_by_choice(name: str, needed: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """For each choice of the field `name`, the fields that it needs; those of other choices it does not take."""
    every = sorted({field for fields in needed.values() for field in fields})
    return {
        "allOf": [
            {
                "if": {"required": [name], "properties": {name: {"const": choice}}},
                "then": {
                    "required": list(fields),
                    "properties": {field: False for field in every if field not in fields},
                },
            }
            for choice, fields in needed.items()
        ]
    }
