"""The published schema is the one that the code reads by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monitor.policy import planned
from monitor.policy.json_schema import json_schema

PUBLISHED = Path(__file__).parents[2] / "policies" / "schema.json"


def test_the_published_schema_is_up_to_date() -> None:
    assert json.loads(PUBLISHED.read_text()) == json_schema(), "run `featurewatch policy schema > policies/schema.json`"


def test_it_completes_fields_and_refuses_unknown_ones() -> None:
    blocks = json_schema()["$defs"]
    assert set(blocks["Threshold"]["properties"]) == {"fire", "warn", "clear"}
    assert blocks["Threshold"]["required"] == ["fire"]
    assert blocks["Rule"]["properties"]["for"]["default"] == "1 token"
    assert all(block["additionalProperties"] is False for block in blocks.values())
    assert '"null"' not in json.dumps(blocks)


def test_nothing_is_both_implemented_and_refused_by_name() -> None:
    for block, names in planned.FIELDS.items():
        assert not names & set(part(block)["properties"]), block
    for field, values in planned.VALUES.items():
        choices = part(field)
        assert not values & set(choices.get("enum", [choices.get("const")])), field


def part(path: str) -> dict[str, Any]:
    """The schema of a block or field such as ``spec.rules[].actions[]``."""
    schema = json_schema()
    node = schema
    for name in path.replace("[]", ".[]").split("."):
        node = node["items"] if name == "[]" else node["properties"][name]
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    return node
