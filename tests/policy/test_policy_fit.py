"""Which models a policy applies to, and whether its thresholds do."""

from __future__ import annotations

import pytest
from policy_samples import GOOD

from monitor.policy import Policy, fit_mismatch, matches_model, parse_policy


def fitted_on(block: str) -> Policy:
    return parse_policy(GOOD.replace("{model: tiny, dtype: float32, hook: resid_post.14}", f"{{{block}}}"))


@pytest.mark.parametrize(
    ("model", "expected"),
    [("tiny", True), ("/models/Tiny-Chat", True), ("org/TINY", True), ("/tiny-models/other", True), ("other", False)],
)
def test_model_patterns_ignore_case(model: str, expected: bool) -> None:
    assert matches_model(parse_policy(GOOD), model) is expected


def test_a_pattern_may_name_the_last_part_alone() -> None:
    policy = parse_policy(GOOD.replace('"*Tiny*"', '"tiny-[ab]"'))
    assert matches_model(policy, "org/Tiny-a")
    assert not matches_model(policy, "org/tiny-c")


@pytest.mark.parametrize(
    ("block", "serving"),
    [
        ("model: Tiny", {"model": "/srv/tiny/"}),
        ("model: org/tiny", {"model": "tiny"}),
        ("dtype: float32", {"dtype": "float32", "model": "anything"}),
        ('vllm: "0.32"', {"vllm": "0.32.1"}),
        ("vllm: 0.32.0", {"vllm": "0.32.0+cpu"}),
        ("kvCacheDtype: FP8", {"kvCacheDtype": "fp8"}),
        ("hook: resid_post.14", {}),
    ],
)
def test_the_same_configuration(block: str, serving: dict[str, str]) -> None:
    assert fit_mismatch(fitted_on(block), serving) == []


@pytest.mark.parametrize(
    ("block", "serving", "line"),
    [
        ("model: tiny", {"model": "tiny-2"}, "model: fitted on tiny, serving tiny-2"),
        ("dtype: float32", {"dtype": "bfloat16"}, "dtype: fitted on float32, serving bfloat16"),
        ("vllm: 0.3.2", {"vllm": "0.3.21"}, "vllm: fitted on 0.3.2, serving 0.3.21"),
        ("revision: abc", {}, "revision: fitted on abc, serving unknown"),
        ("quantization: none", {"quantization": "awq"}, "quantization: fitted on none, serving awq"),
        ("hook: resid_post.14", {"hook": "resid_post.9"}, "hook: fitted on resid_post.14, serving resid_post.9"),
    ],
)
def test_a_difference_is_one_line(block: str, serving: dict[str, str], line: str) -> None:
    assert fit_mismatch(fitted_on(block), serving) == [line]


def test_every_difference_is_told() -> None:
    found = fit_mismatch(fitted_on("model: tiny, dtype: float16"), {"model": "x", "dtype": "float32"})
    assert [line.partition(":")[0] for line in found] == ["model", "dtype"]
