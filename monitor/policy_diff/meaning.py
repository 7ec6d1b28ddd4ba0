"""A policy as a flat table of what its fields mean, so that order, format and written-out defaults do not count."""

from __future__ import annotations

from typing import Any

from monitor.policy import Policy

#: Lists of blocks that have names, by the path of the list; their order means nothing.
_NAMED = {
    "detectors": "id",
    "rules": "id",
    "correlations": "id",
    "exceptions": "name",
}
#: Lists of words whose order means nothing.
_SETS = frozenset({"models", "tenants", "adapters", "phases", "skip", "groupBy"})

Leaf = str | int | float | bool | tuple[str, ...]


def meaning_of(policy: Policy) -> dict[str, Leaf]:
    """Values by path, e.g. ``detectors[dense].threshold.fire``; below ``spec`` the paths begin there."""
    data = policy.document.model_dump(by_alias=True, exclude_none=True)
    flat: dict[str, Leaf] = {}
    for name, value in data["metadata"].items():
        _add(flat, f"metadata.{name}", name, value)
    for name, value in data["spec"].items():
        _add(flat, name, name, value)
    for rule in policy.document.spec.rules:
        flat[f"rules[{rule.id}].for"] = rule.hold_tokens
    return flat


def write_out_levels(one: dict[str, Leaf], other: dict[str, Leaf]) -> None:
    """A `warn` or `clear` that only one of two versions states is written out in the other, where it is `fire`."""
    for path in one.keys() ^ other.keys():
        block, _, name = path.rpartition(".")
        if block.endswith("].threshold") and name in ("warn", "clear"):
            lacks = other if path in one else one
            if f"{block}.fire" in lacks:
                lacks[path] = lacks[f"{block}.fire"]


def _add(flat: dict[str, Leaf], path: str, name: str, value: Any) -> None:
    if isinstance(value, dict):
        for inner, below in value.items():
            _add(flat, f"{path}.{inner}", inner, below)
    elif isinstance(value, list | tuple):
        _add_list(flat, path, name, list(value))
    else:
        flat[path] = value


def _add_list(flat: dict[str, Leaf], path: str, name: str, items: list[Any]) -> None:
    if name == "latents":
        for item in items:
            key = item.get("index", item.get("label"))
            _add(flat, f"{path}[{key}]", "", item)
    elif name in _NAMED and all(isinstance(item, dict) for item in items):
        for item in items:
            _add(flat, f"{path}[{item[_NAMED[name]]}]", "", item)
    else:
        words = [str(item) for item in items]
        flat[path] = tuple(sorted(set(words)) if name in _SETS else words)
