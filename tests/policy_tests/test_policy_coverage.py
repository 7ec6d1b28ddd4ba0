"""What coverage counts, and which tests reach it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from suite_samples import POLICY, policy, run

from monitor.policy import DetectorState
from monitor.policy.truth import literals
from monitor.policy.when import parse_condition
from monitor.policy_tests import coverage_of
from monitor.policy_tests.branches import can_decide, decided, value_of


def untested(*tests: str, of: str = POLICY) -> set[str]:
    seen = [result.observation for result in run(*tests, of=of)] if tests else []
    return {item.what for item in coverage_of(policy(of), seen) if not item.covered}


EVERYTHING = {
    "a model that it is not for",
    "a serving configuration that differs",
    "detector bio in warn",
    "detector bio in fire",
    "detector bio clear after fire",
    "detector refusal in fire",
    "detector refusal clear after fire",
    "rule BIO-001 fires",
    "rule BIO-001 stays silent",
    "rule BIO-001: bio.fire true where it decides",
    "rule BIO-001: bio.fire false where it decides",
    "rule BIO-001: refusal.fire true where it decides",
    "rule BIO-001: refusal.fire false where it decides",
    "rule BIO-001: its condition holds for fewer than 3 tokens",
    "rule BIO-002 fires",
    "rule BIO-002 stays silent",
    "rule BIO-002: refusal.fire true where it decides",
    "rule BIO-002: refusal.fire false where it decides",
}


def test_without_tests_everything_is_untested() -> None:
    assert untested() == EVERYTHING


def test_a_silent_test_covers_silence_and_nothing_that_did_not_decide() -> None:
    silent = "{name: a, tokens: {bio: '0x3', refusal: '0x3'}, expect: []}"
    covered = EVERYTHING - untested(silent)
    assert covered == {
        "rule BIO-001 stays silent",
        "rule BIO-001: bio.fire false where it decides",
        "rule BIO-002 stays silent",
        "rule BIO-002: refusal.fire false where it decides",
    }


def test_a_firing_covers_what_decided_it() -> None:
    covered = EVERYTHING - untested("{name: a, tokens: {bio: '1 8x3 0', refusal: '0x5'}, expect: []}")
    assert covered == {
        "detector bio in warn",
        "detector bio in fire",
        "detector bio clear after fire",
        "rule BIO-001 fires",
        "rule BIO-001: bio.fire true where it decides",
        "rule BIO-001: bio.fire false where it decides",
        "rule BIO-001: refusal.fire false where it decides",
        "rule BIO-002 stays silent",
        "rule BIO-002: refusal.fire false where it decides",
    }


def test_all_of_it_can_be_covered() -> None:
    tests = (
        "{name: a, tokens: {bio: '1 8x3 0', refusal: '0x5'}, expect: []}",
        "{name: b, tokens: {bio: '8x2 0 8x2', refusal: '0x3 8 0'}, expect: []}",
        "{name: c, tokens: {bio: '0'}, serving: {dtype: float16}, expect: []}",
        "{name: d, tokens: {bio: '0'}, serving: {model: huge}, expect: []}",
    )
    assert untested(*tests) == set()


def test_lines_are_those_of_the_policy_file() -> None:
    lines = {item.what: (item.line, item.field) for item in coverage_of(policy(), [])}
    assert lines["rule BIO-001: bio.fire true where it decides"] == (18, "spec.rules[0].when")
    assert lines["detector refusal in fire"] == (16, "spec.detectors[1].threshold.fire")
    assert lines["a serving configuration that differs"] == (7, "spec.fittedOn")


def test_what_never_clears_need_not_clear() -> None:
    of = POLICY.replace("window: 1}", "window: 1, then: max}")
    assert untested(of=of) == EVERYTHING - {"detector bio clear after fire", "detector refusal clear after fire"}


def test_a_state_that_another_contains_never_decides_while_true() -> None:
    condition = parse_condition("a.fire or a.warn")
    assert can_decide(condition) == {(0, False), (1, True), (1, False)}


WORDS = st.sampled_from(["a.fire", "b.warn", "c.clear", "a.warn"])
CONDITIONS = st.recursive(
    WORDS,
    lambda inner: st.one_of(
        inner.map(lambda text: f"not ({text})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: "({} {} {})".format(*parts)),
    ),
    max_leaves=6,
)
STATES = st.fixed_dictionaries({name: st.sampled_from(DetectorState) for name in "abc"})


@given(CONDITIONS, STATES)
def test_conditions_have_pythons_value_and_a_state_decides_where_flipping_it_matters(
    text: str, states: dict[str, DetectorState]
) -> None:
    condition = parse_condition(text)
    names = {
        f"{name}.{word}": state is DetectorState.CLEAR if word == "clear" else state >= DetectorState[word.upper()]
        for name, state in states.items()
        for word in ("clear", "warn", "fire")
    }
    python = text
    for name, value in names.items():
        python = python.replace(name, str(value))
    assert value_of(condition, states) == eval(python)
    found = decided(condition, [states])
    for number, literal in enumerate(literals(condition)):
        flips = value_of(condition, states, flipped=number) != value_of(condition, states)
        value = names[f"{literal.detector}.{literal.state.name.lower()}"]
        assert ((number, value) in found) == flips
    assert found <= can_decide(condition)
