"""Turns pydantic's findings into problems with rule and remedy."""

from __future__ import annotations

import difflib
import json
import math
from functools import cache
from typing import Any

from pydantic_core import ErrorDetails

from monitor.policy import planned
from monitor.policy.json_schema import json_schema
from monitor.policy.schema_rules import RULE_ERROR
from monitor.policy.yaml_fields import Fields, line_of

_NUMBER = ("must be a finite number", "write a number without quotes, e.g. 7.3")
_INTEGER = ("must be a whole number", "write an integer without quotes, e.g. 4")
_BLOCK = ("must be a block of fields", "write `field: value` lines, indented below it")
_PLAIN = {
    "float_type": _NUMBER,
    "finite_number": _NUMBER,
    "int_type": _INTEGER,
    "int_from_float": _INTEGER,
    "int_parsing_size": _INTEGER,
    "string_type": ("must be text", "write a word, or put the value in quotes"),
    "string_too_short": ("must not be empty", "give it a value or remove it"),
    "string_too_long": ("must have at most {max_length} characters", "shorten it"),
    "tuple_type": ("must be a list", "write [first, second]"),
    "too_short": ("must have at least one entry", "add one"),
    "too_long": ("must have at most {max_length} entries", "remove some or split the policy"),
    "model_type": _BLOCK,
    "model_attributes_type": _BLOCK,
    "greater_than": ("must be greater than {gt:g}", "choose a larger number"),
    "greater_than_equal": ("must be at least {ge:g}", "choose a larger number"),
    "less_than": ("must be less than {lt:g}", "choose a smaller number"),
    "less_than_equal": ("must be at most {le:g}", "choose a smaller number"),
}
_NAME = ("must be 1 to 63 letters, digits, - or _ and begin with a letter", "choose another id, e.g. harm_latents")
_PATTERNS = {
    "name": ("must be 1 to 63 lower-case letters, digits or -", "choose another name, e.g. harmful-intent"),
    "id": _NAME,
    "hook": ("a hook point is written resid_post.<layer>", "write for example resid_post.14"),
    "sae": ("must be sha256: and 64 hexadecimal digits", "copy the hash that `featurewatch sae info` shows"),
    "for": ("must be a number of tokens from 1 to 999999", "write for example 3 tokens"),
}


def add_problem(error: ErrorDetails, fields: Fields, told: set[str]) -> None:
    """Adds one of pydantic's errors to the problems of the file, unless reading has told of its field already."""
    location, value, kind = error["loc"], error["input"], error["type"]
    context = error.get("ctx") or {}
    path = _path(location)
    if path in told or (kind == "too_short" and value):  # pydantic counts only the good entries of a list.
        return
    block, name = _path(location[:-1]), str(location[-1]) if location else ""
    if kind == "missing":
        rule, remedy, value = "the field is required", f"add {name}", None
    elif kind == "extra_forbidden":
        rule, remedy = _unknown_field(location, block, name)
    elif kind == RULE_ERROR:
        rule, remedy = str(context["rule"]), str(context["remedy"])
        if context["at"]:
            path = f"{path}.{context['at']}" if path else str(context["at"])
        value = context["value"] if context["at"] or context["value"] is not None else value
    elif kind == "literal_error":
        rule, remedy = _not_a_choice(path, value, str(context["expected"]))
    elif kind == "string_pattern_mismatch":
        rule, remedy = _pattern(path, name, value)
    elif kind in _PLAIN:
        rule, remedy = (part.format(**context) for part in _PLAIN[kind])
    else:
        rule, remedy = error["msg"], "see docs/policies.md"
    fields.refuse(line_of(fields.lines, path), path, "" if value is None else show(value), rule, remedy)


def show(value: Any) -> str:
    """The value much as the file has it."""
    if isinstance(value, dict):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value, ensure_ascii=False)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _unknown_field(location: tuple[int | str, ...], block: str, name: str) -> tuple[str, str]:
    if planned.is_planned_field(block, name):
        return planned.RULE, f"remove {name}"
    known = _known_fields(location[:-1])
    near = difflib.get_close_matches(name, known, n=1)
    rule = f"there is no such field here (known: {', '.join(known)})"
    return rule, f"did you mean {near[0]}" if near else f"remove {name}"


def _not_a_choice(path: str, value: Any, expected: str) -> tuple[str, str]:
    if planned.is_planned_value(path, value):
        return planned.RULE, f"choose {expected}"
    choices = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    near = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f"must be {expected}", f"did you mean {near[0]}" if near else f"choose {choices[0]}"


def _pattern(path: str, name: str, value: Any) -> tuple[str, str]:
    if planned.is_planned_value(path, value):
        return planned.RULE, "count in tokens, e.g. 3 tokens"
    return _PATTERNS[name]


@cache
def _schema() -> dict[str, Any]:
    return json_schema()


def _known_fields(location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the block at `location`."""
    node = _schema()
    for part in location:
        node = _resolved(node)
        node = node["items"] if isinstance(part, int) else node["properties"][part]
    return list(_resolved(node)["properties"])


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        found: dict[str, Any] = _schema()["$defs"][node["$ref"].rpartition("/")[2]]
        return found
    return node
