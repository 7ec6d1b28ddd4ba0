"""What a test compares, and how it fails."""

from __future__ import annotations

import pytest
from suite_samples import POLICY, failures, run

from monitor.policy_tests.report import failure_text


@pytest.mark.parametrize(
    "test",
    [
        "{name: a, tokens: {bio: '0x4 8x3'}, "
        "expect: [{at: 6, rule: BIO-001, wouldAct: [alert, capture], mode: alert}]}",
        "{name: b, tokens: {bio: '0x4 8x2 0x4 8x2'}, expect: []}",
        "{name: c, tokens: {bio: '8x6', refusal: '_x2 2 0x3'}, "
        "expect: [{at: 2, rule: BIO-002}, {at: 5, rule: BIO-001}]}",
        "{name: d, tokens: {bio: '8x3 0 8x3'}, expect: [{at: 2, rule: BIO-001}, {at: 6, rule: BIO-001}]}",
        "{name: e, tokens: {bio: '8x3'}, classes: 'bos special content', expect: []}",
        "{name: f, tokens: {bio: '8x3'}, serving: {dtype: bfloat16}, expect: [{at: 2, rule: BIO-001, mode: shadow}]}",
        "{name: g, tokens: {bio: '8x3'}, mode: shadow, expect: [{at: 2, rule: BIO-001, mode: shadow}]}",
        "{name: h, tokens: {bio: '8x3'}, mode: 'off', expect: []}",
        "{name: i, tokens: {bio: '8x3'}, serving: {model: org/Tiny-2}, expect: [{at: 2, rule: BIO-001, mode: shadow}]}",
        "{name: j, tokens: {bio: '8x3'}, serving: {model: huge}, expect: []}",
        "{name: k, tokens: {bio: 'warn fire clear'}, expect: [], expectStates: [{at: 0, detector: bio, state: warn}, "
        "{at: 1, detector: bio, state: fire}, {at: 2, detector: bio, state: fire}]}",
    ],
)
def test_what_holds_passes(test: str) -> None:
    assert failures(test) == []


@pytest.mark.parametrize(
    ("test", "told"),
    [
        (
            "{name: a, tokens: {bio: '0x4 8x3'}, expect: [{at: 5, rule: BIO-001}]}",
            "expected BIO-001 to fire at token 5; it fired at token 6",
        ),
        (
            "{name: a, tokens: {bio: '0x4 8x2'}, expect: [{at: 5, rule: BIO-001}]}",
            "expected BIO-001 to fire at token 5; it did not fire",
        ),
        ("{name: a, tokens: {bio: '8x3'}, expect: []}", "BIO-001 fired at token 2, which is not expected"),
        (
            "{name: a, tokens: {bio: '8x3'}, serving: {model: huge}, expect: [{at: 2, rule: BIO-001}]}",
            "expected BIO-001 to fire at token 2; the policy does not judge this request: match.models (*tiny*) does "
            "not fit huge",
        ),
        (
            "{name: a, tokens: {bio: '8x3'}, serving: {dtype: float16}, expect: [{at: 2, rule: BIO-001, mode: alert}]}",
            "BIO-001 fired at token 2 as expected, but in mode shadow (dtype: fitted on float32, serving float16), "
            "expected alert",
        ),
        (
            "{name: a, tokens: {bio: '8x3'}, expect: [{at: 2, rule: BIO-001, wouldAct: [alert]}]}",
            "BIO-001 fired at token 2 as expected, but would act with [alert, capture], expected [alert]",
        ),
        (
            "{name: a, tokens: {bio: '0x2'}, expect: [], expectStates: [{at: 1, detector: bio, state: warn}]}",
            "expected bio in warn after token 1, it is in clear",
        ),
        (
            "{name: a, tokens: {bio: '0x2'}, mode: 'off', expect: [], "
            "expectStates: [{at: 1, detector: bio, state: clear}]}",
            "expected bio in clear after token 1; the policy does not judge this request: its mode is off",
        ),
    ],
)
def test_what_does_not_hold_is_told(test: str, told: str) -> None:
    assert failures(test) == [told]


def test_a_failure_shows_the_scores_around_its_token() -> None:
    (result,) = run("{name: a, tokens: {bio: '0x4 8x2 _'}, expect: [{at: 5, rule: BIO-001}]}")
    assert failure_text("bio_test.yaml", result.failures[0]) == [
        "bio_test.yaml:5 expected BIO-001 to fire at token 5; it did not fire",
        "  bio (warn 1, fire 2, clear 1.5)",
        "    token          2      3     4   [5]     6",
        "    score          0      0     8     8     _",
        "    aggregate      0      0     8     8     8",
        "    state      clear  clear  fire  fire  fire",
        "  refusal (warn 2, fire 2, clear 2)",
        "    token          2      3      4    [5]      6",
        "    score          _      _      _      _      _",
        "    aggregate      _      _      _      _      _",
        "    state      clear  clear  clear  clear  clear",
    ]


def test_the_phases_of_a_test() -> None:
    prompt_only = POLICY.replace('match: {models: ["*tiny*"]}', "match: {phases: [prompt]}")
    fires = "expect: [{at: 2, rule: BIO-001}]"
    assert failures(f"{{name: a, tokens: {{bio: '8x3'}}, {fires}}}", of=prompt_only) == []
    assert failures("{name: a, tokens: {bio: '8x4'}, prompt: 2, expect: []}", of=prompt_only) == []
    split = "{name: a, tokens: {bio: '8x5'}, phases: 'prompt responsex2 promptx2', expect: [{at: 4, rule: BIO-001}]}"
    assert failures(split, of=prompt_only) == []
    response_only = prompt_only.replace("[prompt]", "[response]")
    assert failures(f"{{name: a, tokens: {{bio: '8x3'}}, {fires}}}", of=response_only) == []
