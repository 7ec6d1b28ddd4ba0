"""Rules between blocks: ids are unique and conditions name detectors that exist.

They look at the plain fields, so that they are found in the same run as faults of single fields.
"""

from __future__ import annotations

import difflib
from typing import Any

from monitor.policy.when import ConditionError, parse_condition
from monitor.policy.yaml_fields import Fields, line_of


def crosscheck(fields: Fields) -> None:
    """Adds what it finds to the problems of the file."""
    detectors, rules = _blocks(fields.data, "detectors"), _blocks(fields.data, "rules")
    for kind, blocks in (("detectors", detectors), ("rules", rules)):
        seen: dict[str, int] = {}
        for index, block in blocks.items():
            name, path = block.get("id"), f"spec.{kind}[{index}].id"
            if not isinstance(name, str):
                continue
            line = line_of(fields.lines, path)
            if name in seen:
                rule = f"the id is already used in line {seen[name]}"
                fields.refuse(line, path, name, rule, "choose another id")
            seen.setdefault(name, line)
    known = list(dict.fromkeys(block["id"] for block in detectors.values() if isinstance(block.get("id"), str)))
    for index, block in rules.items():
        _known_detectors(fields, f"spec.rules[{index}].when", block.get("when"), known)


def _known_detectors(fields: Fields, path: str, when: Any, known: list[str]) -> None:
    if not isinstance(when, str):
        return
    try:
        named = parse_condition(when).detectors
    except ConditionError:
        return  # The schema has reported it.
    for name in named:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            rule = f"the policy has no such detector (it has: {', '.join(known) or 'none'})"
            remedy = f"did you mean {near[0]}" if near else "name one of them or add the detector"
            fields.refuse(line_of(fields.lines, path), path, name, rule, remedy)


def _blocks(data: Any, kind: str) -> dict[int, dict[str, Any]]:
    spec = data.get("spec") if isinstance(data, dict) else None
    items = spec.get(kind) if isinstance(spec, dict) else None
    return {i: item for i, item in enumerate(items) if isinstance(item, dict)} if isinstance(items, list) else {}
