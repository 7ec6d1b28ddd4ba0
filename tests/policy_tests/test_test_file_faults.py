"""Whatever is wrong with a test file: it is refused with problems, or its tests run. Never anything else."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from suite_samples import POLICY, policy

from monitor.policy import PolicyError, Problem
from monitor.policy_tests import PolicyTests, check_against, coverage_of, junit_xml, parse_tests, run_tests

ALL_OF_IT = POLICY + (
    "  correlations: [{id: MANY, kind: count, rules: [BIO-001], within: 1h, atLeast: 2, severity: high}]\n"
    "  notify: {groupBy: [tenant]}\n  onUnseen: alert\n  onDrop: {threshold: 0.1}\n"
)
GOOD: dict[str, Any] = {
    "apiVersion": "monitor/v1",
    "kind": "PolicyTest",
    "policy": "bio.yaml",
    "tests": [
        {
            "name": "one",
            "tokens": {"bio": "0x4 8x3 _", "refusal": "warn..firex4 0x4"},
            "prompt": 3,
            "classes": "bos contentx7",
            "serving": {"model": "tiny", "dtype": "float32", "kvCacheDtype": "auto"},
            "request": {"tenant": "acme", "adapter": "a", "day": "2027-01-31"},
            "mode": "alert",
            "expect": [{"at": 6, "rule": "BIO-001", "wouldAct": ["alert"], "mode": "alert", "exception": "e"}],
            "expectStates": [{"at": 1, "detector": "bio", "state": "clear"}],
        },
        {
            "name": "several",
            "requests": [
                {"name": "a", "time": "0s..1mx3", "tokens": {"bio": "0x4 8x4"}, "seen": "unseenx2 observedx5 dropped"},
                {"tokens": {"bio": "8x8"}, "verdictAfterMs": 40, "request": {"id": "x", "tap": "t"}},
            ],
            "expect": [
                {"request": "a", "at": 6, "rule": "BIO-001"},
                {"request": 1, "at": 6, "rule": "MANY", "correlated": 2},
            ],
            "expectStates": [{"request": 3, "at": 1, "detector": "bio", "state": "fire"}],
            "expectNotifications": [{"time": "30s", "group": {"tenant": ""}, "alerts": 2}],
        },
    ],
}
ODD = st.sampled_from(
    [None, True, 0, -1, 3, 10**9, 1.5, float("nan"), "", "x", "off", "0x3", "_x8", "promptx8", "fire-1x8", "é\u0007",
     "2027-02-30", "unseenx8", "observedx8", "0s", "9m..1hx4", "MANY", "a",
     [], [1], ["alert", "alert"], {}, {"bio": "0x8"}, {"x": {}}, [[]], "a" * 5000]
)  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path, *(below for key in keys for below in paths(value[key], (*path, key)))] if path or keys else [path]


PLACES = [path for path in paths(GOOD) if path]


def read(text: str) -> tuple[PolicyTests | None, list[Problem]]:
    try:
        return parse_tests(text, "t.yaml"), []
    except PolicyError as error:
        return None, list(error.problems)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "drop", "add"]), ODD), max_size=3))
def test_a_changed_file_is_refused_or_runs(changes: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    data = deepcopy(GOOD)
    for path, how, given_value in changes:
        # A value of its own each time: a later change may put one into another.
        odd, node = deepcopy(given_value), cast("Any", data)
        try:
            for key in path[:-1]:
                node = node[key]
            if how == "set":
                node[path[-1]] = odd
            elif how == "drop":
                del node[path[-1]]
            elif isinstance(node, dict):
                node[f"{path[-1]}x"] = odd
        except (KeyError, IndexError, TypeError):
            continue  # An earlier change has removed the place.
    text = json.dumps(data, ensure_ascii=False).replace("NaN", ".nan")
    judged = policy(ALL_OF_IT)
    tests, problems = read(text)
    if tests is not None:
        problems = check_against(tests, judged)
    assert all(problem.line >= 1 and problem.rule and problem.remedy for problem in problems)
    if tests is None or problems:
        return
    results = run_tests(tests, judged)
    assert len(results) == len(tests.cases)
    assert coverage_of(judged, [result.observation for result in results])
    assert junit_xml({("t.yaml", "bio"): results}, {}).startswith("<?xml")
