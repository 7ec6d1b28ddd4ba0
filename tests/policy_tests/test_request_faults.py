"""What is refused of requests, losses, deadlines and notifications in test files: where, and with which remedy."""

from __future__ import annotations

import pytest
from suite_samples import POLICY, file_of, policy

from monitor.policy import PolicyError
from monitor.policy_tests import check_against, parse_tests

TOKENS = "tokens: {bio: '0'}"
ONE = f"{TOKENS}, expect: []"
MANY = "  correlations: [{id: MANY, kind: count, rules: [BIO-001], within: 1h, atLeast: 2, severity: high}]\n"


def requests(*fields: str, expect: str = "") -> str:
    """A test of several requests with these fields."""
    return f"requests: [{', '.join(f'{{{one}}}' for one in fields)}], expect: [{expect}]"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            "expect: []",
            ": a test has tokens, or requests that have them. Add for example tokens: {bio: '0x20 8x3'}.",
        ),
        (
            f"{TOKENS}, {requests(TOKENS)}",
            ".tokens: in a test with requests each of them has its own tokens. Move tokens there.",
        ),
        (
            f"verdictAfterMs: 4, {requests(TOKENS)}",
            ".verdictAfterMs: 4 — in a test with requests each of them has its own verdictAfterMs. "
            "Move verdictAfterMs there.",
        ),
        (requests(), ".requests: [] — must have at least one entry. Add one."),
        (requests("time: 1m"), ".requests[0].tokens: the field is required. Add tokens."),
        (
            requests("tokens: [8]"),
            ".requests[0].tokens: [8] — must be a block of fields. Write a series per detector, e.g. {bio: "
            "'0x20 8x3'}.",
        ),
        (
            requests(f"tmie: 1m, {TOKENS}"),
            '.requests[0].tmie: "1m" — there is no such field here (known: name, tokens, prompt, phases, '
            "classes, seen, "
            "verdictAfterMs, serving, request, time). Did you mean time?",
        ),
        (
            requests(f"time: 1m 5x3, {TOKENS}"),
            '.requests[0].time: "1m 5x3" — in 5x3: a series of times is made of times such as 1h30m and ranges a..bxN. '
            "Write for example 10m, or 1h30m..2hx4.",
        ),
        (
            requests(f"time: 1m..5m, {TOKENS}"),
            '.requests[0].time: "1m..5m" — in 1m..5m: a range has a count of at least 2. Write for example 1m..5mx4.',
        ),
        (
            requests(f"time: 1mx0, {TOKENS}"),
            '.requests[0].time: "1mx0" — in 1mx0: a count is at least 1. Remove the item or say how many.',
        ),
        (
            requests(f"time: ' ', {TOKENS}"),
            '.requests[0].time: " " — there is at least one time. Write for example 10m, or 1h30m.',
        ),
        (
            requests(f"name: 2nd, {TOKENS}"),
            '.requests[0].name: "2nd" — must be 1 to 63 letters, digits, - or _ and begin with a letter. '
            "Choose another "
            "id, e.g. harm_latents.",
        ),
        (
            requests(f"name: b, {TOKENS}", f"name: b, {TOKENS}"),
            ".requests[1].name: b — the request in line 5 has this name. Choose another name.",
        ),
        (
            f"{TOKENS}, expect: [{{request: [1], at: 0, rule: R}}]",
            ".expect[0].request: [1] — must be a request's number, from 0, or its name. Write for example 0.",
        ),
        (
            f"{TOKENS}, expect: [{{at: 0, rule: R, late: 'yes'}}]",
            '.expect[0].late: "yes" — must be true or false. Write true or false, without quotes.',
        ),
        (
            f"seen: lost, {ONE}",
            '.seen: "lost" — in lost: the series is made of observed, dropped, unseen, each with xCOUNT '
            "behind it. Write "
            "for example observedx12 unseenx8.",
        ),
        (
            f"verdictAfterMs: 1.5, {ONE}",
            ".verdictAfterMs: 1.5 — must be a whole number. Write an integer without quotes, e.g. 4.",
        ),
        (
            f"{ONE}, expectNotifications: [{{time: 1x, alerts: 1}}]",
            '.expectNotifications[0].time: "1x" — a time is made of numbers with d, h, m and s, in this '
            "order. Write for "
            "example 10m, or 1h30m.",
        ),
        (
            f"{ONE}, expectNotifications: [{{time: 1m, alerts: 0}}]",
            ".expectNotifications[0].alerts: 0 — must be at least 1. Choose a larger number.",
        ),
        (
            f"{ONE}, expectNotifications: [{{time: 1m, alerts: 1, group: acme}}]",
            '.expectNotifications[0].group: "acme" — must be a block of fields. Write a value per field of '
            "groupBy, e.g. "
            "{tenant: acme}.",
        ),
    ],
)
def test_one_fault_one_line(fields: str, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_tests(file_of(f"{{name: a, {fields}}}"), "t.yaml")
    assert [str(problem) for problem in caught.value.problems] == [f"t.yaml:5 tests[0]{told}"]


def test_there_is_a_limit_to_requests() -> None:
    most = requests(f"time: 0sx99999, {TOKENS}", f"time: 0s, {TOKENS}")
    assert parse_tests(file_of(f"{{name: a, {most}}}")).cases
    with pytest.raises(PolicyError, match="a test has at most 100000 requests, this one has 100001"):
        parse_tests(file_of(f"{{name: a, {most.replace('time: 0s,', 'time: 0s 1s,')}}}"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            requests("tokens: {bio: '0x3', refusal: '0'}"),
            ".requests[0].tokens.refusal: 1 tokens — series of a request are equally long, and that of bio "
            "has 3 tokens. "
            "Fill the shorter one up, with _ where nothing is judged.",
        ),
        (
            f"seen: droppedx2, {ONE}",
            ".seen: 2 tokens — series of a request are equally long, and that of bio has 1 tokens. Fill the "
            "shorter one "
            "up, with _ where nothing is judged.",
        ),
        (
            requests("time: 0sx2, tokens: {bio: '0x3'}", TOKENS, expect="{at: 2, rule: BIO-001}"),
            ".expect[0].at: 2 — request 2 has tokens 0 to 0. Name one of them.",
        ),
        (
            requests(f"time: 0sx2, {TOKENS}", expect="{request: 2, at: 0, rule: BIO-001}"),
            ".expect[0].request: 2 — the test has requests 0 to 1. Name one of them.",
        ),
        (
            requests(f"name: first, {TOKENS}", expect="{request: frist, at: 0, rule: BIO-001}"),
            ".expect[0].request: frist — the test has no such request (it has: first). Did you mean first?",
        ),
        (
            f"{ONE}, expectStates: [{{request: -1, at: 0, detector: bio, state: clear}}]",
            ".expectStates[0].request: -1 — the test has requests 0 to 0. Name one of them.",
        ),
        (
            f"{TOKENS}, expect: [{{at: 0, rule: BIO-001, correlated: 2}}]",
            ".expect[0].correlated: 2 — only a correlation names other alerts, and BIO-001 is none. Remove correlated.",
        ),
        (
            f"{TOKENS}, expect: [{{at: 0, rule: MANY, exception: x}}]",
            ".expect[0].exception: x — the policy has no such exception of MANY (it has: none). Name one of them.",
        ),
        (
            f"{TOKENS}, expect: [{{at: 0, rule: MANI}}]",
            ".expect[0].rule: MANI — the policy has no such rule (it has: BIO-001, BIO-002, MANY). Did you mean MANY?",
        ),
        (
            f"{ONE}, expectNotifications: [{{time: 1m, alerts: 1}}]",
            ".expectNotifications: 1 entries — the policy has no notify, so it sends none. Remove expectNotifications.",
        ),
    ],
)
def test_what_does_not_fit_the_policy(fields: str, told: str) -> None:
    tests = parse_tests(file_of(f"{{name: a, {fields}}}"), "t.yaml")
    assert [str(problem) for problem in check_against(tests, policy(POLICY + MANY))] == [f"t.yaml:5 tests[0]{told}"]


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ("", "group: alerts are gathered by tenant, and tenant is missing. Add tenant, e.g. group: {tenant: acme}."),
        (
            ", group: {tenant: '', rul: x}",
            "group.rul: rul — the policy has no such field in groupBy (it has: tenant). Name one of them.",
        ),
    ],
)
def test_a_notification_names_the_whole_group(group: str, told: str) -> None:
    tests = parse_tests(file_of(f"{{name: a, {ONE}, expectNotifications: [{{time: 1m, alerts: 1{group}}}]}}"), "t.yaml")
    problems = check_against(tests, policy(POLICY + "  notify: {groupBy: [tenant]}\n"))
    assert [str(problem) for problem in problems] == [f"t.yaml:5 tests[0].expectNotifications[0].{told}"]
