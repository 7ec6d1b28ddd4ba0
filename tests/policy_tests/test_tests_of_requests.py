"""Tests that say whose request it is, and when it begins."""

from __future__ import annotations

import pytest
from suite_samples import POLICY, failures, policy, run

from monitor.policy_tests import coverage_of

EXCEPTIONS = (
    "severity: low, exceptions: [{name: drill, match: {tenants: [rt-*]}, reason: drill, owner: a, expires: 2027-01-31},"
    " {name: lora, match: {adapters: [known]}, reason: known, owner: a, expires: 2027-06-30}]"
)
EXCEPTED = POLICY.replace("severity: low", EXCEPTIONS)
ONLY = POLICY.replace('models: ["*tiny*"]', "tenants: [acme]")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("{tenant: rt-1}", "exception: drill, wouldAct: []"),
        ("{tenant: rt-1, day: 2027-01-30}", "exception: drill, wouldAct: []"),
        ("{tenant: rt-1, day: 2027-01-31}", "wouldAct: [alert]"),
        ("{tenant: other}", "wouldAct: [alert]"),
        ("{adapter: known}", "exception: lora"),
        ("{tenant: rt-1, adapter: known, day: 2027-03-01}", "exception: lora"),
    ],
)
def test_exceptions_hold_for_their_requests_until_they_expire(request_: str, expected: str) -> None:
    expect = f"[{{at: 0, rule: BIO-002, {expected}}}]"
    test = f"{{name: a, tokens: {{refusal: '8'}}, request: {request_}, expect: {expect}}}"
    assert failures(test, of=EXCEPTED) == []


@pytest.mark.parametrize(
    ("tenant", "exception", "told"),
    [
        ("rt-1", "", "BIO-002 fired at token 0 as expected, but exception drill holds, expected none"),
        ("x", ", exception: drill", "BIO-002 fired at token 0 as expected, but no exception holds, expected drill"),
        ("rt-1", ", exception: lora", "BIO-002 fired at token 0 as expected, but exception drill holds, expected lora"),
    ],
)
def test_another_exception_than_expected_fails(tenant: str, exception: str, told: str) -> None:
    expect = f"[{{at: 0, rule: BIO-002{exception}}}]"
    test = f"{{name: a, tokens: {{refusal: '8'}}, request: {{tenant: {tenant}}}, expect: {expect}}}"
    assert failures(test, of=EXCEPTED) == [told]


def test_a_tenant_that_the_policy_is_not_for() -> None:
    fires = "expect: [{at: 0, rule: BIO-002}]"
    assert failures(f"{{name: a, tokens: {{refusal: '8'}}, request: {{tenant: acme}}, {fires}}}", of=ONLY) == []
    assert failures("{name: a, tokens: {refusal: '8'}, request: {tenant: other}, expect: []}", of=ONLY) == []
    (told,) = failures(f"{{name: a, tokens: {{refusal: '8'}}, {fires}}}", of=ONLY)
    assert told.endswith("match.tenants (acme) does not fit a request without tenant")


def test_exceptions_and_tenants_are_covered_where_a_test_shows_them() -> None:
    def untested(text: str, *tests: str) -> set[str]:
        seen = [result.observation for result in run(*tests, of=text)] if tests else []
        return {item.what for item in coverage_of(policy(text), seen) if not item.covered}

    drill, lora = "rule BIO-002: exception drill holds", "rule BIO-002: exception lora holds"
    assert {drill, lora} <= untested(EXCEPTED)
    expect = "expect: [{at: 0, rule: BIO-002, exception: drill}]"
    test = f"{{name: a, tokens: {{refusal: '8'}}, request: {{tenant: rt-1}}, {expect}}}"
    assert {drill, lora} & untested(EXCEPTED, test) == {lora}
    other = "a tenant that it is not for"
    assert other in untested(ONLY)
    assert other not in untested(ONLY, "{name: a, tokens: {refusal: '8'}, request: {tenant: x}, expect: []}")
