"""Turns pydantic's findings into problems with rule and remedy."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from pydantic_core import ErrorDetails, ValidationError

from monitor.policy.json_schema import json_schema
from monitor.policy.nearest import nearest
from monitor.policy.schema.rules import RULE_ERROR
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
    "greater_than": ("must be greater than {gt}", "choose a larger number"),
    "greater_than_equal": ("must be at least {ge}", "choose a larger number"),
    "less_than": ("must be less than {lt}", "choose a smaller number"),
    "less_than_equal": ("must be at most {le}", "choose a smaller number"),
}
_ID = ("must be 1 to 63 letters, digits, - or _ and begin with a letter", "choose another id, e.g. harm_latents")
_DAY = ("must be a day as year-month-day", "write for example 2027-01-31")
_DURATION = ("must be a number from 1 to 999999 and s, m, h or d", "write for example 10m")
#: Of fields with a pattern: by path without indices, else by the last part of it.
_PATTERNS = {
    "metadata.name": ("must be 1 to 63 lower-case letters, digits or -", "choose another name, e.g. harmful-intent"),
    "name": _ID,
    "id": _ID,
    "rules[]": _ID,
    "hook": ("a hook point is written resid_post.<layer>", "write for example resid_post.14"),
    "sae": ("must be sha256: and 64 hexadecimal digits", "copy the hash that `featurewatch sae info` shows"),
    "for": ("must be a number of tokens from 1 to 999999", "write for example 3 tokens"),
    "expires": _DAY,
    "date": _DAY,
    **dict.fromkeys(("within", "wait", "interval", "repeat"), _DURATION),
}
#: Fields of text in which people write a plain number: `for: 3`, `within: 600`.
_NUMBER_WITH_UNIT = frozenset({"for", "expires", "date", "within", "wait", "interval", "repeat"})
_INDEX = re.compile(r"\[[0-9]+\]")


def add_problems(
    found: ValidationError, fields: Fields, change: Callable[[ErrorDetails], ErrorDetails] = lambda error: error
) -> None:
    """Adds pydantic's errors to the problems of the file, but for fields of which reading has told already.

    `change` puts an error into the words of another kind of file.
    """
    told = frozenset(fields.refused)
    for error in found.errors(include_url=False):
        _add_problem(change(error) if not fields.full else error, fields, told)


def _add_problem(error: ErrorDetails, fields: Fields, told: frozenset[str]) -> None:
    location, value, kind = error["loc"], error["input"], error["type"]
    context = error.get("ctx") or {}
    path, name = _path(location), str(location[-1]) if location else ""
    if kind == "too_short" and value:  # pydantic counts only the good entries of a list.
        return
    if fields.full:
        if not _is_told(path, told):
            fields.refuse(1, path, "", "", "")
        return
    if kind == "missing":
        rule, remedy, value = "the field is required", f"add {name}", None
    elif kind == "extra_forbidden":
        rule, remedy = unknown_field(_schema(), location)
    elif kind == RULE_ERROR:
        rule, remedy = str(context["rule"]), str(context["remedy"])
        if context["at"]:
            path = f"{path}.{context['at']}" if path else str(context["at"])
        value = fields.at(path)
    elif kind == "literal_error":
        rule, remedy = _not_a_choice(value, str(context["expected"]))
    elif kind == "string_pattern_mismatch" or (kind == "string_type" and name in _NUMBER_WITH_UNIT):
        rule, remedy = _pattern(path)
    elif kind in _PLAIN:
        bounds = {name: _plain_number(bound) for name, bound in context.items()}
        rule, remedy = (part.format(**bounds) for part in _PLAIN[kind])
    else:
        rule, remedy = error["msg"], "see docs/policies.md"
    if not _is_told(path, told):
        fields.refuse(line_of(fields.lines, path), path, "" if value is None else show(value), rule, remedy)


def _is_told(path: str, told: frozenset[str]) -> bool:
    """Whether the field or a block around it is among those."""
    while path:
        if path in told:
            return True
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return False


def show(value: Any) -> str:
    """The value much as the file has it."""
    if isinstance(value, dict):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value, ensure_ascii=False)


def _plain_number(bound: Any) -> Any:
    """1000000 rather than 1e+06; 1e+30 stays."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() and abs(bound) < 1e15 else bound


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def unknown_field(schema: dict[str, Any], location: Sequence[int | str]) -> tuple[str, str]:
    """Rule and remedy for a field that its block does not have; `schema` is the JSON Schema of the whole file."""
    name, known = str(location[-1]), _known_fields(schema, location[:-1])
    near = nearest(name, known)
    rule = f"there is no such field here (known: {', '.join(known)})"
    return rule, f"did you mean {near}" if near else f"remove {name}"


def _not_a_choice(value: Any, expected: str) -> tuple[str, str]:
    choices = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    near = nearest(value, choices) if isinstance(value, str) else None
    remedy = f"choose {choices[0]}" if len(choices) == 1 else "choose one of these"
    return f"must be {expected}", f"did you mean {near}" if near else remedy


def _pattern(path: str) -> tuple[str, str]:
    plain = _INDEX.sub("[]", path)
    return _PATTERNS[plain if plain in _PATTERNS else plain.rpartition(".")[2]]


@cache
def _schema() -> dict[str, Any]:
    return json_schema()


def _known_fields(schema: dict[str, Any], location: Sequence[int | str]) -> list[str]:
    """Names of the fields of the block at `location`."""
    node = schema
    for part in location:
        node = _resolved(schema, node)
        node = node["items"] if isinstance(part, int) else node["properties"][part]
    return list(_resolved(schema, node)["properties"])


def _resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        found: dict[str, Any] = schema["$defs"][node["$ref"].rpartition("/")[2]]
        return found
    return node
