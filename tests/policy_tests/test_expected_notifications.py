"""What tests expect of `notify`."""

from __future__ import annotations

import pytest
from suite_samples import POLICY, failures, policy, run

from monitor.policy_tests import coverage_of

NOTIFY = POLICY + "  notify: {groupBy: [tenant], wait: 30s, interval: 5m, repeat: 1h}\n"


def case(times: str, expected: str, more: str = "") -> str:
    return (
        f"{{name: a, {more}requests: [{{time: '{times}', tokens: {{refusal: '8'}}, request: {{tenant: acme}}}}], "
        f"expect: [{{at: 0, rule: BIO-002}}], expectNotifications: [{expected}]}}"
    )


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ("0s", ["30s 1"]),
        ("0s 10s 30s", ["30s 3"]),
        ("0s 31s 32s", ["30s 1", "5m30s 2"]),
        ("0s 10m", ["30s 1", "10m 1"]),
        ("0s 3h", ["30s 1", "3h30s 1"]),
    ],
)
def test_alerts_are_told_together_as_the_policy_says(times: str, expected: list[str]) -> None:
    told = ", ".join("{{time: {}, group: {{tenant: acme}}, alerts: {}}}".format(*one.split()) for one in expected)
    assert failures(case(times, told), of=NOTIFY) == []


def test_what_is_not_sent_is_not_told() -> None:
    assert failures(case("0s", "", "mode: shadow, "), of=NOTIFY) == []
    exception = "exceptions: [{name: drill, match: {tenants: [acme]}, reason: a, owner: a, expires: 2027-01-31}]"
    excepted = NOTIFY.replace("severity: low", f"severity: low, {exception}")
    assert failures(case("0s", "").replace("rule: BIO-002", "rule: BIO-002, exception: drill"), of=excepted) == []


def test_a_test_of_one_request_may_look_at_them_too() -> None:
    ungrouped = NOTIFY.replace("groupBy: [tenant], ", "")
    test = "{name: a, tokens: {refusal: '8'}, expect: [{at: 0, rule: BIO-002}], expectNotifications: [%s]}"
    assert failures(test % "{time: 30s, alerts: 1}", of=ungrouped) == []
    assert failures(test.replace(", expectNotifications: [%s]", ""), of=ungrouped) == []


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ("", ["a notification of tenant acme is sent at 30s and tells of 2 alerts, which is not expected"]),
        (
            "{time: 31s, group: {tenant: acme}, alerts: 2}",
            [
                "expected a notification of tenant acme at 31s; one is sent at 30s",
                "a notification of tenant acme is sent at 30s and tells of 2 alerts, which is not expected",
            ],
        ),
        (
            "{time: 30s, group: {tenant: acme}, alerts: 3}",
            ["a notification of tenant acme is sent at 30s as expected, but tells of 2 alerts, expected 3"],
        ),
        (
            "{time: 30s, group: {tenant: acme}, alerts: 2}, {time: 5m, group: {tenant: ''}, alerts: 1}",
            ["expected a notification of no tenant at 5m; there is none"],
        ),
    ],
)
def test_others_than_expected_fail(expected: str, told: list[str]) -> None:
    assert failures(case("0s 5s", expected), of=NOTIFY) == told


def test_coverage_asks_for_one_that_a_test_looks_at() -> None:
    def untested(*tests: str) -> set[str]:
        seen = [result.observation for result in run(*tests, of=NOTIFY)]
        return {item.what for item in coverage_of(policy(NOTIFY), seen) if not item.covered}

    looked_at = case("0s", "{time: 30s, group: {tenant: acme}, alerts: 1}")
    not_looked_at = looked_at.split(", expectNotifications")[0] + "}"
    assert "a notification is sent" in untested(not_looked_at)
    assert "a notification is sent" not in untested(looked_at)
