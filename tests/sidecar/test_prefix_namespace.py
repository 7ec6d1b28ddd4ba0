"""State of prefixes is shared only by those who judge alike."""

from __future__ import annotations

import json

import pytest
from prefix_kit import CLASSES, plan_of

from monitor.policy import TokenClasses
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.namespace import prefix_namespace, tells_phases_apart
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.tap_pb2 import HookPlan

DOCUMENT = {
    "apiVersion": "monitor/v1",
    "kind": "Policy",
    "metadata": {"name": "p", "revision": 1},
    "spec": {
        "detectors": [
            {
                "id": "a",
                "source": {"saeLatents": {"sae": "tiny", "latents": [{"index": 1}]}},
                "aggregate": {"kind": "max"},
                "threshold": {"fire": 1.0},
            }
        ],
        "rules": [{"id": "R", "when": "a.fire", "severity": "low"}],
    },
}
TEXT = json.dumps(DOCUMENT)


def name(plan: TapPlan, classes: TokenClasses = CLASSES) -> bytes:
    return prefix_namespace(plan.policies, plan.watch_plan, classes)


def test_the_version_of_a_plan_does_not_matter() -> None:
    assert name(plan_of([TEXT])) == name(plan_of([TEXT], version=9))


@pytest.mark.parametrize(
    ("before", "after"),
    [('"fire": 1.0', '"fire": 1.5'), ('"revision": 1', '"revision": 2'), ('"index": 1', '"index": 2')],
)
def test_a_changed_policy_begins_anew(before: str, after: str) -> None:
    assert TEXT.count(before) == 1
    assert name(plan_of([TEXT])) != name(plan_of([TEXT.replace(before, after)]))


def test_weights_and_token_classes_are_part_of_it() -> None:
    plan, other = plan_of([TEXT]), plan_of([TEXT])
    other.watch_plan.hooks[0].CopyFrom(HookPlan(hook_point="resid_post.1", width=8, count=1, weights=b"\1" * 32))
    assert name(plan) != name(other)
    assert name(plan) != name(plan, TokenClasses.unknown())


@pytest.mark.parametrize(
    ("phases", "apart", "apart_with_think_markers"),
    [
        (["prompt", "reasoning", "response"], False, False),
        (["prompt", "response"], False, True),
        (["prompt"], True, True),
        (["response"], True, True),
        (["reasoning"], False, True),
        (["reasoning", "response"], True, True),
    ],
)
def test_phases_are_told_apart_by_a_detector_that_does_not_judge_them_all(
    phases: list[str], apart: bool, apart_with_think_markers: bool
) -> None:
    spec = {**DOCUMENT["spec"], "match": {"phases": phases}}  # type: ignore[dict-item]
    policies = plan_of([json.dumps({**DOCUMENT, "spec": spec})]).policies
    assert tells_phases_apart(policies, TokenReader.unknown().phases) == apart
    assert tells_phases_apart(policies, TokenReader(CLASSES, None).phases) == apart_with_think_markers
