"""From the text of a test file to its tests, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from monitor.policy.problem import PolicyError
from monitor.policy.problem_text import add_problems, unknown_field
from monitor.policy.schema.rules import RULE_ERROR
from monitor.policy.yaml_fields import Fields, line_of, read_fields
from monitor.policy_tests.schema import Case, PolicyTestDocument, json_schema_of_tests


@dataclass(frozen=True)
class PolicyTests:
    """The tests of one well-formed file.

    Attributes:
        file: the name it was read under.
        policy: the policy file that it names, relative to it.
        cases: its tests.
        lines: line of each field by its path, e.g. ``tests[0].expect[1].at``.
    """

    file: str
    policy: str
    cases: tuple[Case, ...]
    lines: Mapping[str, int] = field(repr=False, default_factory=dict)

    def line(self, path: str) -> int:
        return line_of(self.lines, path)


def parse_tests(text: str, file: str = "<tests>") -> PolicyTests:
    """Reads a test file's text.

    Raises:
        PolicyError: with all problems that can be found without the policy, in order of lines.
    """
    fields = read_fields(text, file)
    document: PolicyTestDocument | None = None
    if isinstance(fields.data, dict):
        try:
            document = PolicyTestDocument.model_validate(fields.data)
        except ValidationError as error:
            add_problems(error, fields, _with_own_fields)
        _different_names(fields)
    elif not fields.problems:
        rule = "a test file is a block of fields: apiVersion, kind, policy, tests"
        fields.refuse(1, "", "", rule, "begin with apiVersion: monitor/v1")
    if fields.problems or document is None:
        raise PolicyError(fields.told())
    return PolicyTests(file, document.policy, document.tests, fields.lines)


def _different_names(fields: Fields) -> None:
    """Reports are read by name, and expectations name the requests of their test."""
    tests = fields.data.get("tests") if isinstance(fields.data, dict) else None
    _each_once(fields, "tests", tests, "test")
    for index, case in enumerate(tests if isinstance(tests, list) else ()):
        requests = case.get("requests") if isinstance(case, dict) else None
        _each_once(fields, f"tests[{index}].requests", requests, "request")


def _each_once(fields: Fields, block: str, items: Any, what: str) -> None:
    lines = dict[str, int]()
    for index, item in enumerate(items if isinstance(items, list) else ()):
        name, path = item.get("name") if isinstance(item, dict) else None, f"{block}[{index}].name"
        if not isinstance(name, str):
            continue
        line = line_of(fields.lines, path)
        if name in lines:
            fields.refuse(line, path, name, f"the {what} in line {lines[name]} has this name", "choose another name")
        lines.setdefault(name, line)


def _with_own_fields(details: ErrorDetails) -> ErrorDetails:
    """An error in the words of test files; `add_problems` knows those of policies."""
    if details["type"] == "extra_forbidden":
        rule, remedy = unknown_field(_schema(), details["loc"])
    elif details["type"] == "dict_type":
        remedies = {"group": "write a value per field of groupBy, e.g. {tenant: acme}"}
        rule = "must be a block of fields"
        remedy = remedies.get(str(details["loc"][-1]), "write a series per detector, e.g. {bio: '0x20 8x3'}")
    elif details["type"] == "bool_type":
        rule, remedy = "must be true or false", "write true or false, without quotes"
    else:
        return details
    return {**details, "type": RULE_ERROR, "ctx": {"rule": rule, "remedy": remedy, "at": ""}}


@cache
def _schema() -> dict[str, Any]:
    return json_schema_of_tests()
