"""What must be true of every text that is given as a policy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from policy_samples import FakeSources

from monitor.policy import Policy, PolicyEngine, PolicyError, Problem, check_policy, compile_policies, parse_policy
from monitor.policy.advice import advice
from monitor.policy.planned import RULE, is_planned_field, is_planned_value
from monitor.policy.yaml_fields import shorten

_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def verdict(text: str) -> str:
    """Judges one text: ``accepted`` or ``refused``; an AssertionError if it is neither as it should be."""
    try:
        policy = parse_policy(text, "p.yaml")
    except PolicyError as error:
        _well_refused(text, error.problems)
        return "refused"
    _means_what_it_says(text, policy)
    _well_told(text, advice(policy, "2026-11-21"))
    found = check_policy(policy, FakeSources())
    _well_told(text, found)
    if not found:
        PolicyEngine(compile_policies([policy], FakeSources()))
    return "accepted"


def _means_what_it_says(text: str, policy: Policy) -> None:
    """The fields that were set are the fields of the file, all of them and no others, each with the file's value."""
    assert not [event for event in yaml.parse(text, Loader=yaml.BaseLoader) if getattr(event, "tag", None)]
    node = yaml.compose(text, Loader=yaml.BaseLoader)
    dumped = policy.document.model_dump(by_alias=True, exclude_unset=True)
    _same(node, dumped, "")


def _same(node: yaml.Node | None, value: Any, path: str) -> None:
    assert not is_planned_value(path, value), path
    if isinstance(node, yaml.MappingNode):
        assert isinstance(value, dict), path
        written = {key.value: item for key, item in node.value}
        assert len(written) == len(node.value), path
        assert written.keys() == value.keys(), path
        for name, item in written.items():
            assert not is_planned_field(path, name), path
            _same(item, value[name], f"{path}.{name}" if path else name)
    elif isinstance(node, yaml.SequenceNode):
        assert isinstance(value, tuple), path
        assert len(node.value) == len(value), path
        for index, item in enumerate(node.value):
            _same(item, value[index], f"{path}[{index}]")
    else:
        assert isinstance(node, yaml.ScalarNode), path
        looks_like_number = node.style is None and _NUMBER.fullmatch(node.value) is not None
        if isinstance(value, str):
            assert value == node.value, path
            assert not looks_like_number, path
        else:
            assert isinstance(value, (int, float)), path
            assert not isinstance(value, bool), path
            assert looks_like_number, path
            assert float(node.value) == value, path


def _well_refused(text: str, problems: tuple[Problem, ...]) -> None:
    assert problems
    _well_told(text, problems)
    assert [problem.line for problem in problems] == sorted(problem.line for problem in problems)
    for problem in problems:
        if problem.rule == RULE:
            block, _, name = problem.field.rpartition(".")
            assert is_planned_field(block, name) or problem.remedy == "choose another value", problem


def _well_told(text: str, problems: list[Problem] | tuple[Problem, ...]) -> None:
    """Each has a line of the file, a rule and a remedy, and its field or the block around it is there."""
    lines = len(re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text))
    for problem in problems:
        assert problem.file == "p.yaml"
        assert 1 <= problem.line <= lines, problem
        assert problem.rule, problem
        assert problem.remedy, problem
        assert str(problem).isprintable(), problem
    if any(problem.field for problem in problems):
        nodes = {shorten(path, 160): node for path, node in _nodes(yaml.compose(text, Loader=yaml.BaseLoader), "")}
        for problem in problems:
            is_missing = problem.value == "" and problem.field.rpartition(".")[0] in nodes
            assert problem.field in nodes or is_missing, problem
            node = nodes.get(problem.field)
            assert not isinstance(node, yaml.ScalarNode) or _shows(problem, str(node.value)), problem


def _shows(problem: Problem, written: str) -> bool:
    """The value of a problem is the field's, a part of it (of a condition) or what it names (a probe file).

    Of a field that is given twice it is the name, of a tag the tag.
    """
    value = problem.value
    if value in ("", ".nan", ".inf", "-.inf", "true", "false", problem.field.rpartition(".")[2]):
        return True
    if value.startswith("!") or shorten(repr(written)[1:-1], 60).rstrip("…") in value:
        return True
    if _NUMBER.fullmatch(written) and _NUMBER.fullmatch(value.rstrip("…")):
        return value.endswith("…") or float(value) == float(written)
    return any(
        value.rstrip("…") in shorten(text, 10_000) for text in (written, json.dumps(written, ensure_ascii=False))
    )


def _nodes(node: yaml.Node | None, path: str) -> Iterator[tuple[str, yaml.Node | None]]:
    yield path, node
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _nodes(value, f"{path}.{key.value}" if path else str(key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _nodes(value, f"{path}[{index}]")
