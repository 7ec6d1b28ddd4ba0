"""docs/policies.md names every field, and its examples are policies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.policy import parse_policy, planned
from monitor.policy.json_schema import json_schema

DOCS = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
EXAMPLES = [block for block in re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL) if "apiVersion" in block]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_good_policies(example: str) -> None:
    assert parse_policy(example).document.spec.rules


def test_there_is_an_example() -> None:
    assert EXAMPLES


def test_every_field_is_documented() -> None:
    schema = json_schema()
    fields = {name for block in [schema, *schema["$defs"].values()] for name in block["properties"]}
    assert not {field for field in fields if not re.search(rf"\b{field}\b", DOCS)}


def test_everything_that_is_refused_by_name_is_listed() -> None:
    listed = DOCS.partition("## Not implemented in this version")[2]
    words = set().union(*planned.FIELDS.values(), *planned.VALUES.values())
    assert not {word for word in words if f"`{word}`" not in listed}
