"""Rules between blocks: ids are unique, conditions name detectors that exist, and correlations rules that exist.

They look at the plain fields, so that they are found in the same run as faults of single fields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from monitor.policy.nearest import nearest
from monitor.policy.when import ConditionError, parse_condition
from monitor.policy.yaml_fields import Fields, line_of


def crosscheck(fields: Fields) -> None:
    """Adds what it finds to the problems of the file."""
    detectors = dict(_blocks(fields.data, "detectors"))
    rules = dict(_blocks(fields.data, "rules"))
    correlations = dict(_blocks(fields.data, "correlations"))
    _unique_ids(fields, detectors)
    # Alerts of both carry the id of what fired.
    _unique_ids(fields, rules | correlations)
    _conditions(fields, rules, _ids(detectors))
    _correlated(fields, correlations, _ids(rules))


def _unique_ids(fields: Fields, blocks: dict[str, dict[str, Any]]) -> None:
    seen: dict[str, int] = {}
    for block_path, block in blocks.items():
        name, path = block.get("id"), f"{block_path}.id"
        if not isinstance(name, str):
            continue
        line = line_of(fields.lines, path)
        if name in seen:
            fields.refuse(line, path, name, f"the id is already used in line {seen[name]}", "choose another id")
        seen.setdefault(name, line)


def _conditions(fields: Fields, rules: dict[str, dict[str, Any]], known: Collection[str]) -> None:
    for block_path, block in rules.items():
        when = block.get("when")
        if not isinstance(when, str):
            continue
        try:
            named = parse_condition(when).detectors
        except ConditionError:
            continue  # The schema has reported it.
        for name in named:
            _must_know(fields, f"{block_path}.when", name, known, "detector")


def _correlated(fields: Fields, correlations: dict[str, dict[str, Any]], known: Collection[str]) -> None:
    for block_path, block in correlations.items():
        named = block.get("rules")
        for index, name in enumerate(named if isinstance(named, list) else ()):
            if isinstance(name, str):
                _must_know(fields, f"{block_path}.rules[{index}]", name, known, "rule")


def _must_know(fields: Fields, path: str, name: str, known: Collection[str], kind: str) -> None:
    if name in known:
        return
    near = None if fields.full else nearest(name, known)
    rule = f"the policy has no such {kind} (it has: {', '.join(known) or 'none'})"
    remedy = f"did you mean {near}" if near else f"name one of them or add the {kind}"
    fields.refuse(line_of(fields.lines, path), path, name, rule, remedy)


def _ids(blocks: dict[str, dict[str, Any]]) -> dict[str, None]:
    """Each once, in order."""
    return dict.fromkeys(block["id"] for block in blocks.values() if isinstance(block.get("id"), str))


def _blocks(data: Any, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and fields of each block of the list ``spec.<kind>``."""
    spec = data.get("spec") if isinstance(data, dict) else None
    items = spec.get(kind) if isinstance(spec, dict) else None
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield f"spec.{kind}[{index}]", item
