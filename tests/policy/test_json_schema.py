"""The published schema is the one that the code reads by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from faults import faults
from jsonschema import Draft202012Validator
from policy_mutations import mutated
from policy_seeds import SEEDS
from schema_paths import schema_paths

from monitor.policy import planned
from monitor.policy.json_schema import json_schema
from monitor.policy.yaml_fields import read_fields

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


def test_every_block_and_every_field_is_described() -> None:
    assert [name for name, block in json_schema()["$defs"].items() if "description" not in block] == []
    fields = [(path, node) for path, node in schema_paths(json_schema()) if not path.endswith("[]")]
    assert len(fields) > 100
    assert [path for path, node in fields if "description" not in node] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_good_policies_are_valid(seed: str) -> None:
    assert remarks(SEEDS[seed]) == []


@pytest.mark.parametrize(
    ("seed", "before", "after", "path"),
    [
        ("good", "halfLife: 8", "halfLive: 8", "$.spec.detectors[0].aggregate"),
        ("good", "fire: 7.3", "fire: high", "$.spec.detectors[0].threshold.fire"),
        ("good", "severity: low", "", "$.spec.rules[1]"),
        ("good", "name: harm,", "name: Harm,", "$.metadata.name"),
        ("good", "for: 2 tokens", "for: two tokens", "$.spec.rules[0].for"),
        ("good", "{saeProbe:", "{denseProbe: {file: a}, saeProbe:", "$.spec.detectors[1].source"),
        ("counting", "combine: any", "combine: some", "$.spec.detectors[1].source.saeLatents.combine"),
        ("counting", "recall: 0.5", "recall: 1.5", "$.spec.detectors[1].calibration.recall"),
        ("serving", "sample: 0.25", "sample: 0", "$.spec.match.sample"),
        ("serving", "[alert, log]", "[exit]", "$.spec.onDrop.actions[0]"),
        ("answers", "within: 10m", "within: 10", "$.spec.correlations[0].within"),
        ("answers", "deadlineMs: 50", "deadlineMs: 0", "$.spec.rules[0].deadlineMs"),
        ("good", "halfLife: 8, ", "", "$.spec.detectors[0].aggregate"),
        ("good", "window: 16", "window: 16, halfLife: 3", "$.spec.detectors[1].aggregate"),
        ("counting", "          k: 2\n", "", "$.spec.detectors[0].source.saeLatents"),
        ("counting", "combine: k_of_n", "combine: any", "$.spec.detectors[0].source.saeLatents"),
        ("counting", "label: weapons, ", "", "$.spec.detectors[0].source.saeLatents.latents[0]"),
        ("answers", "within: 10m, atLeast: 5", "within: 10m", "$.spec.correlations[0]"),
        ("answers", "within: 30s", "within: 30s, of: rule", "$.spec.correlations[5]"),
        ("answers", "      deadlineMs: 50\n", "", "$.spec.rules[0]"),
        ("answers", "match: {adapters: [lora-b]}", "match: {}", "$.spec.rules[0].exceptions[1].match"),
        ("answers", "[rule, severity,", "[policy, severity,", "$.spec.notify.groupBy[0]"),
    ],
)
def test_editors_mark_the_field_that_is_wrong(seed: str, before: str, after: str, path: str) -> None:
    assert SEEDS[seed].count(before) == 1
    assert remarks(SEEDS[seed].replace(before, after)) == [path]


def test_editors_never_mark_what_is_accepted() -> None:
    accepted = [text for text in map(mutated, range(10_000, 10_400)) if faults(text) == []]
    assert len(accepted) > 5
    assert [text for text in accepted if remarks(text)] == []


def remarks(text: str) -> list[str]:
    """Places in the plain data that the published schema refuses, each once."""
    validator = Draft202012Validator(json.loads(PUBLISHED.read_text()))
    return sorted({error.json_path for error in validator.iter_errors(read_fields(text, "p.yaml").data)})


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
