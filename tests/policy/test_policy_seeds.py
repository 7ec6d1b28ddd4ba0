"""What the tests of the format start from covers all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from faults import faults
from policy_seeds import SEEDS
from schema_paths import schema_paths

from monitor.policy.json_schema import json_schema


@pytest.mark.parametrize("seed", SEEDS)
def test_every_seed_is_a_good_policy(seed: str) -> None:
    assert faults(SEEDS[seed]) == []


def test_every_field_is_in_a_seed() -> None:
    used = {path for text in SEEDS.values() for path, _ in leaves(yaml.safe_load(text))}
    assert not {path for path, _ in schema_paths(json_schema()) if not path.endswith("[]")} - used


def test_every_choice_is_in_a_seed() -> None:
    used = {(path, value) for text in SEEDS.values() for path, value in leaves(yaml.load(text, yaml.BaseLoader))}
    choices = {
        (path, choice)
        for path, node in schema_paths(json_schema())
        for choice in node.get("enum", [node["const"]] if "const" in node else [])
    }
    defaults = {("spec.onUnseen", "alert"), ("spec.detectors[].aggregate.skip[]", "template")}
    assert len(choices) > 50
    unused = choices - used - defaults
    assert not unused


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every block and value with its path without indices."""
    if isinstance(node, dict):
        for key, value in node.items():
            inner = f"{path}.{key}" if path else key
            yield inner, None if isinstance(value, (dict, list)) else value
            yield from leaves(value, inner)
    elif isinstance(node, list):
        for value in node:
            yield f"{path}[]", None if isinstance(value, (dict, list)) else value
            yield from leaves(value, f"{path}[]")
    assert re.fullmatch(r"[\w.\[\]]*", path)
