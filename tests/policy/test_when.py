"""The condition grammar."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.policy import DetectorState
from monitor.policy.vocabulary import AND, NOT, OR
from monitor.policy.when import ConditionError, State, parse_condition

A, B, C = (State(name, DetectorState.FIRE) for name in "abc")


def test_and_binds_closer_than_or_and_not_closest() -> None:
    assert parse_condition("a.fire or b.fire and not c.fire").postfix == (A, B, C, NOT, AND, OR)
    assert parse_condition("(a.fire or b.fire) and c.fire").postfix == (A, B, OR, C, AND)
    assert parse_condition("not not a.fire").postfix == (A, NOT, NOT)


def test_names_its_detectors_once_and_gives_the_program() -> None:
    condition = parse_condition("b.warn or (a.clear and b.fire)")
    assert condition.detectors == ("b", "a")
    assert condition.program({"a": 0, "b": 5}) == (22, 1, 23, AND, OR)


@pytest.mark.parametrize(
    ("text", "position", "value", "part"),
    [
        ("a", 1, "a", "a dot and clear, warn or fire"),
        ("a.", 1, "a.", "states are clear, warn and fire"),
        ("a.on", 1, "a.on", "states are clear, warn and fire"),
        ("a.fire b.fire", 8, "b.fire", "ended here"),
        ("a.fire and", 11, "", "ends too early"),
        ("or a.fire", 1, "or", "is expected here"),
        ("(a.fire or b.fire", 18, "", "opened at character 1 is not closed"),
        ("a.fire)", 7, ")", "ended here"),
        ("()", 2, ")", "is expected here"),
        ("a.fire && b.fire", 8, "&", "made of detector.state"),
        ("a.fire > 3", 8, ">", "made of detector.state"),
        ("a.fire AND b.fire", 8, "AND", "ended here"),
        ("   ", 4, "", "ends too early"),
        ("a.fire.warn", 7, ".", "made of detector.state"),
        ("not " * 40 + "a.fire", 125, "not", "at most 30 deep"),
        ("(" * 3000, 32, "(", "at most 30 deep"),
        (" or ".join(["a.fire"] * 61), 1, "", "at most 60 states"),
    ],
)
def test_a_fault_has_position_value_rule_and_remedy(text: str, position: int, value: str, part: str) -> None:
    with pytest.raises(ConditionError) as caught:
        parse_condition(text)
    assert (caught.value.position, caught.value.value) == (position, value)
    assert part in caught.value.rule
    assert caught.value.remedy


EXPRESSIONS = st.recursive(
    st.sampled_from(["a.fire", "b.warn", "c.clear"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join),
        inner.map("not {}".format),
        inner.map("({})".format),
    ),
    max_leaves=12,
)


@given(EXPRESSIONS, st.tuples(*[st.sampled_from(list(DetectorState))] * 3))
def test_means_what_python_means_by_the_same_words(text: str, states: tuple[DetectorState, ...]) -> None:
    state_of = dict(zip("abc", states, strict=True))
    tests = {"clear": "== 1", "warn": ">= 2", "fire": ">= 3"}
    in_python = re.sub(r"(\w)\.(\w+)", lambda m: f"({int(state_of[m[1]])} {tests[m[2]]})", text)
    assert parse_condition(text).holds(state_of) == eval(in_python, {"__builtins__": {}})


@given(st.text(alphabet="abfire.()notandwclr- ", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        positions = [1, *(1 for _ in parse_condition(text).postfix)]
    except ConditionError as error:
        positions = [error.position]
    assert all(1 <= position <= len(text) + 1 for position in positions)
