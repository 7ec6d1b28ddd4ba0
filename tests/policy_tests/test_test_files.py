"""Test files: what is refused, where, and with which remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from suite_samples import HEAD, file_of, policy

from monitor.policy import PolicyError
from monitor.policy.yaml_fields import read_fields
from monitor.policy_tests import check_against, json_schema_of_tests, parse_tests

PUBLISHED = Path(__file__).parents[2] / "policies" / "tests.schema.json"
GOOD = "{name: one, tokens: {bio: '0x4 8x3'}, expect: [{at: 6, rule: BIO-001}]}"


def test_the_published_schema_is_up_to_date() -> None:
    remedy = "run `featurewatch policy schema --tests > policies/tests.schema.json`"
    assert json.loads(PUBLISHED.read_text()) == json_schema_of_tests(), remedy


def test_every_block_and_every_field_of_the_published_schema_is_described() -> None:
    published = json.loads(PUBLISHED.read_text())
    blocks = {"the file": published} | published["$defs"]
    fields = {f"{name}.{key}": field for name, block in blocks.items() for key, field in block["properties"].items()}
    assert len(fields) > 40
    assert not [name for name, node in (blocks | fields).items() if "description" not in node]


def test_editors_accept_the_librarys_tests_and_ask_for_tokens_or_requests() -> None:
    validator = Draft202012Validator(json.loads(PUBLISHED.read_text()))
    files = [*PUBLISHED.parent.rglob("*_test.yaml")]
    assert len(files) >= 6
    for file in files:
        assert not [*validator.iter_errors(read_fields(file.read_text(), str(file)).data)], file
    for fields, accepted in (
        ("tokens: {a: '0'}", True),
        ("requests: [{tokens: {a: '0'}}]", True),
        ("mode: alert", False),
    ):
        data = read_fields(file_of(f"{{name: a, expect: [], {fields}}}"), "t.yaml").data
        assert validator.is_valid(data) == accepted, fields


def refused(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse_tests(text, "t.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("test", "told"),
    [
        (
            "{name: a, tokens: {bio: '0'}, expect: [], servng: {dtype: x}}",
            "t.yaml:5 tests[0].servng: there is no such field here (known: name, tokens, prompt, phases, classes, "
            "seen, verdictAfterMs, serving, request, requests, mode, expect, expectStates, "
            "expectNotifications). Did you "
            "mean serving?",
        ),
        (
            "{name: a, tokens: {bio: '0'}, expect: [], serving: {kvCache: x}}",
            't.yaml:5 tests[0].serving.kvCache: "x" — there is no such field here (known: model, revision, dtype, '
            "quantization, kvCacheDtype, vllm). Did you mean kvCacheDtype?",
        ),
        ("{name: a, tokens: {bio: '0'}}", "t.yaml:5 tests[0].expect: the field is required. Add expect."),
        (
            "{name: a, tokens: {bio: '0y3'}, expect: []}",
            't.yaml:5 tests[0].tokens.bio: "0y3" — in 0y3: a series is made of numbers, ranges a..bxN and _, each '
            "with xCOUNT behind it. Write for example 0x20 8x3 _ 0..5x10.",
        ),
        (
            "{name: a, tokens: {bio: 8}, expect: []}",
            "t.yaml:5 tests[0].tokens.bio: 8 — must be text. Write a word, or put the value in quotes.",
        ),
        (
            "{name: a, tokens: [1], expect: []}",
            "t.yaml:5 tests[0].tokens: [1] — must be a block of fields. Write a series per detector, e.g. "
            "{bio: '0x20 8x3'}.",
        ),
        (
            "{name: a, tokens: {bio: '0'}, expect: [{at: 0, rule: R, mode: on}]}",
            "t.yaml:5 tests[0].expect[0].mode: \"on\" — must be 'shadow', 'alert' or 'enforce'. Choose one of these.",
        ),
        (
            "{name: a, tokens: {bio: '0'}, expect: [], request: {day: 2026-02-30}}",
            't.yaml:5 tests[0].request.day: "2026-02-30" — there is no such day. '
            "Write year-month-day, e.g. 2027-01-31.",
        ),
        (
            "{name: a, tokens: {bio: '0'}, expect: [], request: {day: tomorrow}}",
            't.yaml:5 tests[0].request.day: "tomorrow" — must be a day as year-month-day. '
            "Write for example 2027-01-31.",
        ),
        (
            "{name: a, tokens: {bio: '0'}, expect: [], prompt: 1, phases: prompt}",
            't.yaml:5 tests[0].phases: "prompt" — prompt and phases say the same. Remove one of them.',
        ),
    ],
)
def test_one_fault_one_line(test: str, told: str) -> None:
    assert refused(file_of(test)) == [told]


def test_all_faults_are_told_in_order_of_lines() -> None:
    told = refused(file_of(GOOD, GOOD, "{name: two, tokens: {}, expect: []}").replace("bio.yaml", "../bio.yaml"))
    assert [line.split(" ")[0] for line in told] == ["t.yaml:3", "t.yaml:6", "t.yaml:7"]
    assert "the policy lies beside its tests" in told[0]
    assert "the test in line 5 has this name" in told[1]


@pytest.mark.parametrize("text", ["", "[1]", "just text", HEAD, "a: &x 1", "\x00"])
def test_a_file_that_is_no_test_file(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize(
    ("test", "told"),
    [
        (
            "{name: a, tokens: {boi: '0'}, expect: []}",
            "t.yaml:5 tests[0].tokens.boi: boi — the policy has no such detector (it has: bio, refusal). "
            "Did you mean bio?",
        ),
        (
            "{name: a, tokens: {bio: '0'}, expect: [{at: 0, rule: BIO-003}]}",
            "t.yaml:5 tests[0].expect[0].rule: BIO-003 — the policy has no such rule (it has: BIO-001, BIO-002). "
            "Did you mean BIO-002?",
        ),
        (
            "{name: a, tokens: {bio: '0x3', refusal: '0x4'}, expect: []}",
            "t.yaml:5 tests[0].tokens.refusal: 4 tokens — series of a request are equally long, and that of bio has 3 "
            "tokens. Fill the shorter one up, with _ where nothing is judged.",
        ),
        (
            "{name: a, tokens: {bio: '0x3'}, phases: promptx2, expect: []}",
            "t.yaml:5 tests[0].phases: 2 tokens — series of a request are equally long, and that of bio has 3 tokens. "
            "Fill the shorter one up, with _ where nothing is judged.",
        ),
        (
            "{name: a, tokens: {bio: '0x3'}, expect: [{at: 3, rule: BIO-001}]}",
            "t.yaml:5 tests[0].expect[0].at: 3 — the test has tokens 0 to 2. Name one of them.",
        ),
        (
            "{name: a, tokens: {bio: '0x3'}, prompt: 4, expect: []}",
            "t.yaml:5 tests[0].prompt: 4 — the test has 3 tokens. Write at most 3.",
        ),
        (
            "{name: a, tokens: {bio: '0'}, expect: [{at: 0, rule: BIO-001, exception: red-team}]}",
            "t.yaml:5 tests[0].expect[0].exception: red-team — the policy has no such exception of BIO-001 (it has: "
            "none). Name one of them.",
        ),
    ],
)
def test_what_the_policy_does_not_have(test: str, told: str) -> None:
    assert [str(problem) for problem in check_against(parse_tests(file_of(test), "t.yaml"), policy())] == [told]


def test_a_good_file_has_no_problem() -> None:
    tests = parse_tests(file_of(GOOD), "t.yaml")
    assert (tests.policy, [case.name for case in tests.cases]) == ("bio.yaml", ["one"])
    assert check_against(tests, policy()) == []
