"""From the text of a test file to its tests, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from monitor.policy.nearest import nearest
from monitor.policy.policy import Policy
from monitor.policy.problem import PolicyError, Problem
from monitor.policy.problem_text import add_problems, unknown_field
from monitor.policy.schema.rules import RULE_ERROR
from monitor.policy.yaml_fields import Fields, line_of, read_fields
from monitor.policy_tests.schema import CLASSES, PHASES, Case, PolicyTestDocument, json_schema_of_tests
from monitor.policy_tests.series import length_of, parse_scores, parse_words


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


def check_against(tests: PolicyTests, policy: Policy) -> list[Problem]:
    """What the tests name must be in the policy, and a test's series must be equally long; in order of lines."""
    check = _Check(tests, policy, Fields(tests.file))
    for index, case in enumerate(tests.cases):
        check.case(f"tests[{index}]", case)
    return check.found.told()


@dataclass
class _Check:
    tests: PolicyTests
    policy: Policy
    found: Fields

    def case(self, path: str, case: Case) -> None:
        spec = self.policy.document.spec
        detectors = [detector.id for detector in spec.detectors]
        lengths = {name: length_of(parse_scores(text)) for name, text in case.tokens.items()}
        for name in case.tokens:
            self.known(f"{path}.tokens.{name}", name, detectors, "detector")
        size = next(iter(lengths.values()))
        first = next(iter(lengths))
        for name, length in lengths.items():
            self.equal(f"{path}.tokens.{name}", length, size, first)
        for name, text, choices in (("phases", case.phases, PHASES), ("classes", case.classes, CLASSES)):
            if text is not None:
                self.equal(f"{path}.{name}", len(parse_words(text, choices)), size, first)
        if case.prompt is not None and case.prompt > size:
            rule = f"the test has {size} tokens"
            self.refuse(f"{path}.prompt", str(case.prompt), rule, f"write at most {size}")
        rules = {rule.id: [one.name for one in rule.exceptions] for rule in spec.rules}
        for number, firing in enumerate(case.expect):
            here = f"{path}.expect[{number}]"
            self.position(f"{here}.at", firing.at, size)
            self.known(f"{here}.rule", firing.rule, rules, "rule")
            if firing.exception is not None and firing.rule in rules:
                self.known(f"{here}.exception", firing.exception, rules[firing.rule], f"exception of {firing.rule}")
        for number, state in enumerate(case.expect_states):
            here = f"{path}.expectStates[{number}]"
            self.position(f"{here}.at", state.at, size)
            self.known(f"{here}.detector", state.detector, detectors, "detector")

    def known(self, path: str, name: str, names: Iterable[str], what: str) -> None:
        known = list(names)
        if name not in known:
            near = None if self.found.full else nearest(name, known)
            rule = f"the policy has no such {what} (it has: {', '.join(known) or 'none'})"
            self.refuse(path, name, rule, f"did you mean {near}" if near else "name one of them")

    def equal(self, path: str, length: int, size: int, first: str) -> None:
        if length != size:
            rule = f"series of a test are equally long, and that of {first} has {size} tokens"
            self.refuse(path, f"{length} tokens", rule, "fill the shorter one up, with _ where nothing is judged")

    def position(self, path: str, at: int, size: int) -> None:
        if at >= size:
            self.refuse(path, str(at), f"the test has tokens 0 to {size - 1}", "name one of them")

    def refuse(self, path: str, value: str, rule: str, remedy: str) -> None:
        self.found.refuse(self.tests.line(path), path, value, rule, remedy)


def _different_names(fields: Fields) -> None:
    """Reports are read by name."""
    tests = fields.data.get("tests") if isinstance(fields.data, dict) else None
    lines = dict[str, int]()
    for index, case in enumerate(tests if isinstance(tests, list) else ()):
        name, path = case.get("name") if isinstance(case, dict) else None, f"tests[{index}].name"
        if not isinstance(name, str):
            continue
        line = line_of(fields.lines, path)
        if name in lines:
            fields.refuse(line, path, name, f"the test in line {lines[name]} has this name", "choose another name")
        lines.setdefault(name, line)


def _with_own_fields(details: ErrorDetails) -> ErrorDetails:
    """Unknown fields are told with those that a test file knows there; `add_problem` knows a policy's."""
    if details["type"] == "dict_type":
        context = {"rule": "must be a block of fields", "remedy": "write a series per detector, e.g. {bio: '0x20 8x3'}"}
        return {**details, "type": RULE_ERROR, "ctx": {**context, "at": ""}}
    if details["type"] != "extra_forbidden":
        return details
    rule, remedy = unknown_field(_schema(), details["loc"])
    return {**details, "type": RULE_ERROR, "ctx": {"rule": rule, "remedy": remedy, "at": ""}}


@cache
def _schema() -> dict[str, Any]:
    return json_schema_of_tests()
