"""docs/policies.md names every field, and its examples are policies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from schema_paths import schema_paths

from monitor.policy import parse_policy, planned
from monitor.policy.json_schema import json_schema

NOT_IMPLEMENTED = "## Not implemented in this version"
DOCS = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
EXAMPLES = [block for block in BLOCKS if "apiVersion" in block]
#: Blocks of `spec`.
PARTS = [block for block in BLOCKS if block.startswith("  ")]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_good_policies(example: str) -> None:
    assert parse_policy(example).document.spec.rules


@pytest.mark.parametrize("part", PARTS)
def test_examples_of_parts_fit_into_the_smallest_policy(part: str) -> None:
    smallest = EXAMPLES[0]
    whole = (smallest.partition("  rules:\n")[0] if part.startswith("  rules:") else smallest) + part
    assert parse_policy(whole).document.spec.rules


def test_there_are_examples() -> None:
    assert EXAMPLES
    assert len(PARTS) >= 3


def test_every_field_and_every_choice_is_documented() -> None:
    text = DOCS.partition(NOT_IMPLEMENTED)[0]
    words = {path.rpartition(".")[2] for path, _ in used_paths() if not path.endswith("[]")}
    words |= {
        choice
        for path, node in used_paths()
        for choice in node.get("enum", ())
        if not planned.is_planned_value(path, choice)
    }
    assert len(words) > 80
    assert not {word for word in words if not re.search(rf"\b{word}\b", text)}


def used_paths() -> Iterator[tuple[str, dict[str, Any]]]:
    """Fields that are not refused by name."""
    for path, node in schema_paths(json_schema()):
        parts = path.split(".")
        if not any(planned.is_planned_field(".".join(parts[:n]), parts[n]) for n in range(len(parts))):
            yield path, node


def test_everything_that_is_refused_by_name_is_listed() -> None:
    listed = DOCS.partition(NOT_IMPLEMENTED)[2]
    words = set().union(*planned.FIELDS.values(), *planned.VALUES.values())
    assert not {word for word in words if f"`{word}`" not in listed}
