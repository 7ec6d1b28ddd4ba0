"""Tests of several requests in time: correlations, and which request an expectation is about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from suite_samples import POLICY, failures, policy, run

from monitor.policy_tests import coverage_of

DOCS = Path(__file__).parents[2] / "docs" / "policy-tests.md"
CORRELATED = POLICY + (
    "  correlations:\n"
    "    - {id: BIO-REPEATED, kind: count, rules: [BIO-001], within: 1h, atLeast: 3, severity: critical}\n"
)
FIRES = "tokens: {bio: 'fire+1x3'}"


def of(correlation: str) -> str:
    """The policy with another correlation."""
    return re.sub(r"\{id: BIO-REPEATED.*\}", f"{{id: BIO-REPEATED, severity: high, {correlation}}}", CORRELATED)


def test_the_documented_example_holds() -> None:
    text = DOCS.read_text()
    (block,) = re.findall(r"```yaml\n(  - name: the third prompt.*?)```", text, re.DOTALL)
    notify = "  notify: {groupBy: [tenant]}\n"
    (case,) = run(block.removeprefix("  - ").strip(), of=CORRELATED + notify)
    assert [failure.text for failure in case.failures] == []
    assert [len(one.firings) for one in case.observation.requests] == [1, 1, 2, 1]


@pytest.mark.parametrize(
    ("times", "completes"),
    [
        ("0s 1m 2m", [2]),
        ("0s 30m 1h", [2]),
        ("0s 30m 1h1s", []),
        ("0s..4mx5", [2]),
        ("2h 0s 1m 2m", [3]),
        ("0sx3", [2]),
    ],
)
def test_a_count_within_its_time_span(times: str, completes: list[int]) -> None:
    expected = "".join(f", {{request: {number}, at: 2, rule: BIO-REPEATED, correlated: 3}}" for number in completes)
    test = f"{{name: a, requests: [{{time: '{times}', {FIRES}}}], expect: [{{at: 2, rule: BIO-001}}{expected}]}}"
    assert failures(test, of=CORRELATED) == []


def test_it_fires_again_only_after_it_had_ceased_to_hold() -> None:
    text = "{name: a, requests: [{time: '0s 1m 2m 3m 5h 5h1m 5h2m', %s}], expect: [{at: 2, rule: BIO-001}, %s]}"
    expected = ", ".join(f"{{request: {number}, at: 2, rule: BIO-REPEATED}}" for number in (2, 6))
    assert failures(text % (FIRES, expected), of=CORRELATED) == []


def alike(tenants: str, expect: str, correlation: str = "", more: str = "") -> list[str]:
    """Complaints about a request per tenant, a minute apart."""
    requests = ", ".join(
        f"{{name: r{k}, time: {k}m, {FIRES}, request: {{tenant: {tenant}{more}}}}}"
        for k, tenant in enumerate(tenants.split())
    )
    text = of(correlation) if correlation else CORRELATED
    return failures(f"{{name: a, requests: [{requests}], expect: [{{at: 2, rule: BIO-001}}{expect}]}}", of=text)


def test_groups_are_apart() -> None:
    assert alike("acme umbrella acme umbrella", "") == []
    assert alike("acme umbrella acme umbrella acme", ", {request: r4, at: 2, rule: BIO-REPEATED}") == []
    together = "kind: count, rules: [BIO-001], groupBy: [], within: 1h, atLeast: 3"
    assert alike("acme umbrella tyrell", ", {request: r2, at: 2, rule: BIO-REPEATED}", together) == []


def test_different_tenants_and_generations() -> None:
    tenants = "kind: distinct, of: tenant, groupBy: [], rules: [BIO-001], within: 1h, atLeast: 2"
    assert alike("acme acme acme", "", tenants) == []
    assert alike("acme acme umbrella", ", {request: r2, at: 2, rule: BIO-REPEATED, correlated: 2}", tenants) == []
    generations = "kind: distinct, of: generation, rules: [BIO-001], within: 1h, atLeast: 2"
    # One request that fires twice is one generation.
    one = "{name: a, tokens: {bio: '8x3 0 8x3'}, expect: [{at: 2, rule: BIO-001}, {at: 6, rule: BIO-001}]}"
    assert failures(one, of=of(generations)) == []
    (told,) = failures(one, of=of(generations.replace("distinct, of: generation", "count")))
    assert told == "BIO-REPEATED fired at token 6, which is not expected"
    assert alike("acme acme", ", {request: r1, at: 2, rule: BIO-REPEATED}", generations) == []


def test_rules_in_order() -> None:
    ordered = of("kind: ordered, rules: [BIO-002, BIO-001], within: 10m")
    refusal = "tokens: {refusal: 'fire+1'}"
    text = "{name: a, requests: [{name: one, time: %s, %s}, {name: two, time: 5m, %s}], expect: [%s]}"
    rules = "{request: one, at: 0, rule: BIO-002}, {request: two, at: 2, rule: BIO-001}"
    completed = rules + ", {request: two, at: 2, rule: BIO-REPEATED, correlated: 2}"
    assert failures(text % ("0s", refusal, FIRES, completed), of=ordered) == []
    # In time, not in the order of the file.
    assert failures(text % ("6m", refusal, FIRES, rules), of=ordered) == []


def test_models_adapters_and_taps_group_too() -> None:
    for field, one, two in (
        ("model", "serving: {model: a-tiny}", "serving: {model: b-tiny}"),
        ("adapter", "request: {adapter: a}", "request: {adapter: b}"),
        ("tap", "request: {tap: a}", "request: {tap: b}"),
    ):
        text = of(f"kind: count, rules: [BIO-001], groupBy: [{field}], within: 1h, atLeast: 2")
        test = "{name: a, requests: [{%s, %s}, {%s, %s}], expect: [{at: 2, rule: BIO-001}%s]}"
        assert failures(test % (FIRES, one, FIRES, two, ""), of=text) == []
        fires = ", {request: 1, at: 2, rule: BIO-REPEATED}"
        assert failures(test % (FIRES, one, FIRES, one, fires), of=text) == []


def test_what_an_exception_holds_back_completes_nothing() -> None:
    exception = "{name: drill, match: {tenants: [acme]}, reason: drill, owner: a, expires: 2027-01-31}"
    text = CORRELATED.replace("severity: high,", f"severity: high, exceptions: [{exception}],")
    requests = f"requests: [{{time: 0sx5, {FIRES}, request: {{tenant: acme}}}}]"
    test = f"{{name: a, {requests}, expect: [{{at: 2, rule: BIO-001, exception: drill}}]}}"
    assert failures(test, of=text) == []


def test_a_correlation_has_the_mode_of_what_completes_it() -> None:
    test = (
        "{name: a, mode: shadow, requests: [{time: 0sx3, %s}], "
        "expect: [{at: 2, rule: BIO-001}, {request: 2, at: 2, rule: BIO-REPEATED, mode: %s, wouldAct: [alert]}]}"
    )
    assert failures(test % (FIRES, "shadow"), of=CORRELATED) == []
    (told,) = failures(test % (FIRES, "alert"), of=CORRELATED)
    assert told.endswith("BIO-REPEATED fired at token 2 as expected, but in mode shadow, expected alert")


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        (
            "[{at: 2, rule: BIO-001}]",
            ["request 2 (burst, 2m): BIO-REPEATED fired at token 2, which is not expected"],
        ),
        (
            "[{at: 2, rule: BIO-001}, {request: 3, at: 2, rule: BIO-REPEATED}]",
            [
                "request 2 (burst, 2m): BIO-REPEATED fired at token 2, which is not expected",
                "request 3 (burst, 3m): expected BIO-REPEATED to fire at token 2; it did not fire",
            ],
        ),
        (
            "[{at: 2, rule: BIO-001}, {request: 2, at: 2, rule: BIO-REPEATED, correlated: 4}]",
            [
                "request 2 (burst, 2m): BIO-REPEATED fired at token 2 as expected, but it is made of 3 alerts, "
                "expected 4"
            ],
        ),
        (
            "[{request: 2, at: 2, rule: BIO-REPEATED}]",
            ["requests 0, 1, 2 and 2 more: BIO-001 fired at token 2, which is not expected"],
        ),
        (
            "[{request: 2, at: 2, rule: BIO-REPEATED}, {request: burst, at: 2, rule: BIO-001, wouldAct: []}]",
            [
                "requests 0, 1, 2 and 2 more: BIO-001 fired at token 2 as expected, but would act with "
                "[alert, capture], expected []"
            ],
        ),
    ],
)
def test_failures_name_their_requests(expect: str, told: list[str]) -> None:
    test = f"{{name: a, requests: [{{name: burst, time: '0s..4mx5', {FIRES}}}], expect: {expect}}}"
    assert failures(test, of=CORRELATED) == told


def test_states_are_those_of_the_named_request() -> None:
    requests = "requests: [{name: loud, tokens: {bio: '1.2'}}, {tokens: {bio: '0'}}], expect: []"
    test = f"{{name: a, {requests}, expectStates: [{{request: loud, at: 0, detector: bio, state: warn}}, %s]}}"
    assert failures(test % "{request: 1, at: 0, detector: bio, state: clear}") == []
    (told,) = failures(test % "{at: 0, detector: bio, state: clear}")
    assert told == "request 0 (loud, 0s): expected bio in clear after token 0, it is in warn"


def test_an_unexpected_firing_is_told_at_the_line_of_its_request() -> None:
    test = f"{{name: a,\n     requests: [\n      {{tokens: {{bio: '0'}}}},\n      {{{FIRES}}}], expect: []}}"
    (result,) = run(test)
    assert [failure.line for failure in result.failures] == [8]


def untested(text: str, *tests: str) -> set[str]:
    seen = [result.observation for result in run(*tests, of=text)]
    return {item.what for item in coverage_of(policy(text), seen) if not item.covered}


def test_coverage_asks_for_a_correlation_that_fires_and_one_that_does_not() -> None:
    fires, silent = (
        "correlation BIO-REPEATED fires",
        "correlation BIO-REPEATED stays silent although a rule of it fires",
    )
    both = {fires, silent}
    lines = {item.what: (item.line, item.field) for item in coverage_of(policy(CORRELATED), [])}
    assert lines[fires] == lines[silent] == (21, "spec.correlations[0].id")
    complete = f"{{name: all, requests: [{{time: 0sx3, {FIRES}}}], expect: []}}"
    other = "{name: other, tokens: {refusal: '8'}, expect: []}"
    assert both & untested(CORRELATED, other) == both
    assert both & untested(CORRELATED, complete) == {silent}
    assert both & untested(CORRELATED, f"{{name: one, {FIRES}, expect: []}}") == {fires}
    exception = "{name: drill, match: {models: ['*']}, reason: drill, owner: a, expires: 2027-01-31}"
    excepted = CORRELATED.replace("severity: high,", f"severity: high, exceptions: [{exception}],")
    assert both & untested(excepted, complete) == both
    assert not {what for what in untested(POLICY, other) if "correlation" in what}
