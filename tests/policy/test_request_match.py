"""Which policies judge a request, and which exceptions hold for it."""

from __future__ import annotations

import hashlib

import pytest
from policy_samples import GOOD

from monitor.policy import Policy, RequestFacts, expired_exceptions, holding_exception, judges, parse_policy
from monitor.policy.request_match import fits_name, in_sample

EXCEPTIONS = """\
      exceptions:
        - name: by-tenant
          match: {tenants: [red-team, "blue-*"]}
          reason: exercise
          owner: a
          expires: "2027-01-31"
        - name: by-both
          match: {models: ["*tiny"], adapters: [medical]}
          reason: its trade
          owner: b
          expires: "2028-01-01"
"""


def policy(match: str = '{models: ["*Tiny*"], phases: [prompt, response]}', exceptions: str = "") -> Policy:
    text = GOOD.replace('{models: ["*Tiny*"], phases: [prompt, response]}', match)
    return parse_policy(text.replace("      actions: [alert]\n", "      actions: [alert]\n" + exceptions), "p.yaml")


@pytest.mark.parametrize(
    ("patterns", "tenant", "fits"),
    [
        (["*"], "", True),
        (["*"], "acme", True),
        (["?*"], "", False),
        (["**"], "", False),
        (["?*"], "acme", True),
        (["acme"], "acme", True),
        (["acme"], "Acme", False),
        (["acme-*", "zoo"], "acme-eu", True),
        (["acme-*", "zoo"], "acme", False),
        (["[az]*"], "zoo", True),
    ],
)
def test_a_policy_judges_the_tenants_that_its_patterns_fit(patterns: list[str], tenant: str, fits: bool) -> None:
    assert fits_name(patterns, tenant) == fits
    assert judges(policy(f"{{tenants: {patterns}}}".replace("'", '"')), tenant, "r") == fits


def test_a_sample_is_the_same_for_the_same_ids_and_near_its_share() -> None:
    requests = [f"cmpl-{number}" for number in range(20_000)]
    chosen = {share: {r for r in requests if in_sample("harm", r, share)} for share in (0.01, 0.3, 0.9, 1.0)}
    for share, found in chosen.items():
        # Binomial, five standard deviations.
        assert abs(len(found) - share * 20_000) <= 5 * (20_000 * share * (1 - share)) ** 0.5
    assert chosen[0.01] < chosen[0.3] < chosen[0.9] < chosen[1.0] == set(requests)
    assert {r for r in requests if in_sample("other", r, 0.3)} != chosen[0.3]


def test_what_decides_about_the_sample_is_written_down() -> None:
    """First 8 bytes of SHA-256 of the name, a zero byte and the id, as a share of 2**64: others may compute it."""
    share = int.from_bytes(hashlib.sha256(b"harm\0cmpl-7").digest()[:8], "big") / 2**64
    assert not in_sample("harm", "cmpl-7", share * (1 - 1e-9))
    assert in_sample("harm", "cmpl-7", share * (1 + 1e-9))


@pytest.mark.parametrize(
    ("request_", "exception"),
    [
        (RequestFacts(tenant="red-team", day="2026-11-21"), "by-tenant"),
        (RequestFacts(tenant="blue-1", day="2027-01-30"), "by-tenant"),
        (RequestFacts(tenant="blue-1", day="2027-01-31"), ""),
        (RequestFacts(tenant="red", day="2026-11-21"), ""),
        (RequestFacts(day="2026-11-21"), ""),
        (RequestFacts(models=("served", "/models/Tiny"), adapter="medical", day="2027-12-31"), "by-both"),
        (RequestFacts(models=("served", "/models/Tiny"), adapter="", day="2027-12-31"), ""),
        (RequestFacts(models=("served", "/models/large"), adapter="medical", day="2027-12-31"), ""),
        (RequestFacts("red-team", ("tiny",), "medical", "2026-11-21"), "by-tenant"),
        (RequestFacts("red-team", ("tiny",), "medical", "2027-06-01"), "by-both"),
    ],
)
def test_the_first_exception_that_has_not_expired_and_fits_in_all_it_states_holds(
    request_: RequestFacts, exception: str
) -> None:
    first, second = policy(exceptions=EXCEPTIONS).document.spec.rules
    assert holding_exception(second, request_) == exception
    assert holding_exception(first, request_) == ""


@pytest.mark.parametrize(
    ("day", "names"),
    [("2027-01-30", []), ("2027-01-31", ["by-tenant"]), ("2028-01-01", ["by-tenant", "by-both"])],
)
def test_exceptions_expire_on_the_day_they_state(day: str, names: list[str]) -> None:
    found = [*expired_exceptions(policy(exceptions=EXCEPTIONS), day)]
    assert [(rule.id, exception.name) for rule, exception in found] == [("HARM-002", name) for name in names]
