"""Every field of a JSON Schema by its path, e.g. ``spec.rules[].actions[]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def schema_paths(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and schema of each field and of each entry of a list."""
    yield from _below(schema, schema, "")


def _below(schema: dict[str, Any], node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    if "items" in node:
        yield f"{path}[]", node["items"]
        yield from _below(schema, node["items"], f"{path}[]")
    for name, field in node.get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        yield inner, field
        yield from _below(schema, field, inner)
