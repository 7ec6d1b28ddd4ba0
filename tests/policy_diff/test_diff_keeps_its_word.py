"""Where a diff says that rules can fire on more generations, no generation that fired before is missed, and the other
way round."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.policy import Mode, Phase, Policy, parse_policy
from monitor.policy.score_trace import ScoreJudge, ScoreTrace
from monitor.policy_diff import Kind, diff_policies

TEMPLATE = """\
apiVersion: monitor/v1
kind: Policy
metadata: {{name: p, revision: 1}}
spec:
  mode: alert
  detectors:
    - id: a
      source: {{denseProbe: {{file: w/a.safetensors}}}}
      aggregate: {{{aggregate}, minTokens: {least}{then}}}
      threshold: {{warn: {warn}, fire: {fire}, clear: {clear}}}
    - id: b
      source: {{denseProbe: {{file: w/b.safetensors}}}}
      aggregate: {{kind: rolling_mean, window: 2}}
      threshold: {{fire: 1}}
  rules:
    - {{id: R, when: "{when}", for: {hold} tokens, severity: low}}
"""
LEVELS = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])
FIELDS = {
    "aggregate": st.sampled_from(
        [
            "kind: ema, halfLife: 2",
            "kind: max",
            "kind: rolling_mean, window: 3",
            "kind: cusum, drift: 0.2",
            "kind: cusum, drift: 0.8",
            "kind: count_over, window: 3, over: 0.5",
            "kind: count_over, window: 3, over: 1",
        ]
    ),
    "least": st.integers(1, 5),
    "then": st.sampled_from(["", ", then: max"]),
    "fire": LEVELS,
    "warn": LEVELS,
    "clear": LEVELS,
    "when": st.sampled_from(
        ["a.fire", "a.warn", "not a.fire", "a.clear", "a.fire and b.fire", "a.fire or not b.fire", "b.warn and a.clear"]
    ),
    "hold": st.integers(1, 4),
}


def policy(values: dict[str, object]) -> Policy:
    fields = dict(values)
    fields["warn"], fields["clear"] = (min(fields[name], fields["fire"]) for name in ("warn", "clear"))  # type: ignore[type-var]
    if fields["aggregate"] == "kind: max":
        fields["then"] = ""
    return parse_policy(TEMPLATE.format(**fields))


def fires(judged: Policy, scores: list[tuple[float, float]]) -> bool:
    columns = np.array(scores)
    phases_p = np.full(len(scores), Phase.PROMPT, np.uint8)
    trace = ScoreTrace({"p/a": columns[:, 0], "p/b": columns[:, 1]}, phases_p)
    return bool(ScoreJudge([judged]).judge(trace).firings)


# Making an engine may compile its kernel.
@settings(deadline=None)
@given(st.data())
def test_more_and_less_are_true(data: st.DataObject) -> None:
    values = {name: data.draw(strategy, name) for name, strategy in FIELDS.items()}
    changed = data.draw(st.sampled_from(sorted(FIELDS)))
    old, new = policy(values), policy({**values, changed: data.draw(FIELDS[changed], "other")})
    kinds = {change.kind for change in diff_policies(old, new)}
    score = st.sampled_from([-2.0, 0.0, 0.25, 0.75, 1.0, 1.5, 3.0])
    scores = data.draw(st.lists(st.tuples(score, score), min_size=1, max_size=12))
    was, now = fires(old, scores), fires(new, scores)
    assert old.mode is Mode.ALERT
    if kinds == {Kind.MORE}:
        assert now or not was
    elif kinds == {Kind.LESS}:
        assert was or not now
    elif not kinds:
        assert was == now
