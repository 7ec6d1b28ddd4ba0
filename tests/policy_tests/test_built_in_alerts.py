"""Tests of what no rule says: positions unseen or dropped, verdicts too late, requests outside of the sample."""

from __future__ import annotations

import pytest
from suite_samples import POLICY, failures, policy, run

from monitor.policy.request_match import in_sample
from monitor.policy_tests import check_against, coverage_of, parse_tests

UNSEEN, DROP = POLICY + "  onUnseen: alert\n", POLICY + "  onDrop: {threshold: 0.1}\n"
TIMED = POLICY.replace("severity: high,", "severity: high, deadlineMs: 40, onTimeout: alert,")
SAMPLED = POLICY.replace('models: ["*tiny*"]', "sample: 0.5")


@pytest.mark.parametrize("what", ["alert", "reread"])
def test_unseen_positions_are_told_once_where_they_begin(what: str) -> None:
    text = UNSEEN.replace("onUnseen: alert", f"onUnseen: {what}")
    test = "{name: a, tokens: {bio: '0x10'}, seen: 'observedx2 unseenx3 observedx3 unseenx2', expect: [%s]}"
    assert failures(test % "{at: 2, rule: on-unseen, mode: alert, wouldAct: [alert]}", of=text) == []
    assert failures(test % "", of=text) == ["on-unseen fired at token 2, which is not expected"]
    assert failures(test % "", of=UNSEEN.replace("onUnseen: alert", "onUnseen: accept")) == []


def test_scores_of_positions_that_nobody_saw_do_not_count() -> None:
    test = "{name: a, tokens: {bio: '8x4'}, seen: %s, expect: [%s]}"
    assert failures(test % ("'observedx2 droppedx2'", "")) == []
    assert failures(test % ("'observedx2 dropped observed'", "{at: 3, rule: BIO-001}")) == []
    assert failures(test % ("'observedx2 unseen observed'", "{at: 3, rule: BIO-001}")) == []


@pytest.mark.parametrize(("dropped", "told"), [(0, False), (1, False), (2, True), (20, True)])
def test_more_than_a_share_dropped_is_told_at_the_first(dropped: int, told: bool) -> None:
    seen = (
        f"observedx{20 - dropped} droppedx{dropped}" if 0 < dropped < 20 else "droppedx20" if dropped else "observedx20"
    )
    expected = f"{{at: {20 - dropped}, rule: on-drop}}" if told else ""
    # A tenth of 20 is borne, more is not.
    text = DROP.replace("0.1", "0.05")
    assert failures(f"{{name: a, tokens: {{bio: '0x20'}}, seen: '{seen}', expect: [{expected}]}}", of=text) == []


def test_what_only_logs_drops_alerts_nobody() -> None:
    test = "{name: a, tokens: {bio: '0x2'}, seen: 'droppedx2', expect: []}"
    assert failures(test, of=DROP.replace("0.1", "0.1, actions: [log]")) == []
    assert failures(test, of=DROP) == ["on-drop fired at token 0, which is not expected"]


@pytest.mark.parametrize(("milliseconds", "late"), [(40, "false"), (41, "true")])
def test_a_verdict_is_late_after_its_deadline(milliseconds: int, late: str) -> None:
    timeout = ", {at: 0, rule: on-timeout, late: true}" if late == "true" else ""
    test = (
        f"{{name: a, tokens: {{bio: '8x3', refusal: '0x2 8'}}, verdictAfterMs: {milliseconds}, "
        f"expect: [{{at: 2, rule: BIO-002, late: false}}{timeout}]}}"
    )
    assert failures(test, of=TIMED) == []
    fires = (
        f"{{name: a, tokens: {{bio: '8x3'}}, verdictAfterMs: {milliseconds}, "
        f"expect: [{{at: 2, rule: BIO-001%s}}{timeout}]}}"
    )
    assert failures(fires % f", late: {late}", of=TIMED) == []
    assert failures(fires % "", of=TIMED) == []
    (told,) = failures(fires % ", late: %s" % ("true" if late == "false" else "false"), of=TIMED)
    assert told.startswith("BIO-001 fired at token 2 as expected, but the verdict came ")


def test_without_on_timeout_a_late_verdict_is_only_late() -> None:
    test = "{name: a, tokens: {bio: '8x3'}, verdictAfterMs: 900, expect: [{at: 2, rule: BIO-001, late: true}]}"
    assert failures(test, of=TIMED.replace(", onTimeout: alert", "")) == []
    assert failures(test.replace("late: true", "late: false")) == []


def test_a_timeout_is_told_where_the_rule_was_first_judged() -> None:
    """In the prompt as one forward pass: there the first rule in the file tells; then token by token."""
    both = TIMED.replace("severity: low", "severity: low, deadlineMs: 10, onTimeout: alert")
    tokens = "tokens: {bio: '_x%d 0x2', refusal: '%s'}"
    test = f"{{name: a, {tokens}, %s, verdictAfterMs: 900, expect: [{{at: %d, rule: on-timeout}}]}}"
    assert failures(test % (2, "_ 0x3", "prompt: 4", 1), of=both) == []
    alone = both.replace("bio.fire and not refusal.fire", "bio.fire")
    assert failures(test % (2, "_ 0x3", "prompt: 4", 2), of=alone) == []
    assert failures(test % (2, "_ 0x3", "prompt: 0", 1), of=alone) == []
    # The prompt's rows are judged before any other token.
    assert failures(test % (3, "_ 0x4", "prompt: 2", 1), of=alone) == []


def test_an_exception_holds_back_rules_and_not_what_is_built_in() -> None:
    exception = "exceptions: [{name: drill, match: {models: ['*']}, reason: a, owner: a, expires: 2027-01-31}]"
    text = UNSEEN.replace("severity: low", f"severity: low, {exception}")
    expect = "{at: 0, rule: on-unseen, wouldAct: [alert]}, {at: 1, rule: BIO-002, exception: drill, wouldAct: []}"
    test = f"{{name: a, tokens: {{refusal: '0 8'}}, seen: 'unseen observed', expect: [{expect}]}}"
    assert failures(test, of=text) == []


def test_the_sample_is_decided_by_the_id() -> None:
    within = next(f"id-{k}" for k in range(100) if in_sample("bio", f"id-{k}", 0.5))
    without = next(f"id-{k}" for k in range(100) if not in_sample("bio", f"id-{k}", 0.5))
    test = "{name: a, tokens: {refusal: '8'}, request: {%s}, expect: [%s]}"
    fires = "{at: 0, rule: BIO-002}"
    assert failures(test % (f"id: {within}", fires), of=SAMPLED) == []
    assert failures(test % (f"id: {without}", ""), of=SAMPLED) == []
    assert failures(test % ("tenant: acme", fires), of=SAMPLED) == []
    (told,) = failures(test % (f"id: {without}", fires), of=SAMPLED)
    assert told.endswith(f"the policy does not judge this request: match.sample (0.5) leaves {without} out")


def untested(text: str, *tests: str) -> set[str]:
    seen = [result.observation for result in run(*tests, of=text)] if tests else []
    return {item.what for item in coverage_of(policy(text), seen) if not item.covered}


def test_coverage_asks_for_what_the_policy_states() -> None:
    without = next(f"id-{k}" for k in range(100) if not in_sample("bio", f"id-{k}", 0.5))
    for text, what, field, test in (
        (UNSEEN, "rule on-unseen fires", "spec.onUnseen", "seen: 'unseen', expect: [{at: 0, rule: on-unseen}]"),
        (DROP, "rule on-drop fires", "spec.onDrop", "seen: 'dropped', expect: [{at: 0, rule: on-drop}]"),
        (
            TIMED,
            "rule BIO-001: a verdict after its deadline",
            "spec.rules[0].onTimeout",
            "verdictAfterMs: 99, expect: [{at: 0, rule: on-timeout}]",
        ),
        (
            SAMPLED,
            "a request that is not in the sample",
            "spec.match.sample",
            f"request: {{id: {without}}}, expect: []",
        ),
    ):
        quiet = "{name: quiet, tokens: {bio: '0'}, expect: []}"
        assert what in untested(text, quiet), what
        assert what not in untested(text, quiet, f"{{name: a, tokens: {{bio: '0'}}, {test}}}"), what
        assert what not in untested(POLICY, quiet), what
        assert field in {item.field for item in coverage_of(policy(text), []) if item.what == what}


def test_a_deadline_is_covered_by_a_request_on_which_it_was_over() -> None:
    both = TIMED.replace("severity: low", "severity: low, deadlineMs: 900, onTimeout: alert")
    what = "rule BIO-002: a verdict after its deadline"
    test = "{name: a, tokens: {bio: '0', refusal: '0'}, verdictAfterMs: %d, expect: []}"
    assert what in untested(both, test % 99)
    assert what not in untested(both, test % 901)


def test_a_rule_that_the_policy_does_not_ask_for_is_unknown() -> None:
    text = "apiVersion: monitor/v1\nkind: PolicyTest\npolicy: bio.yaml\ntests:\n"
    for asks, rule in ((UNSEEN, "on-unseen"), (DROP, "on-drop"), (TIMED, "on-timeout")):
        test = f"  - {{name: a, tokens: {{bio: '0'}}, expect: [{{at: 0, rule: {rule}}}]}}\n"
        tests = parse_tests(text + test, "t.yaml")
        assert check_against(tests, policy(asks)) == []
        (problem,) = check_against(tests, policy())
        assert (problem.value, problem.rule) == (rule, "the policy has no such rule (it has: BIO-001, BIO-002)")
