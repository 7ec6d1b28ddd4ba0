"""Test files tell of unseen and dropped positions and of deadlines what the sidecar tells."""

from __future__ import annotations

import json
from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_kit import PREFIX, QUEUE_FULL, Piece, Request, frame, judge_of, plan_of

from monitor.policy import Mode, parse_policy
from monitor.policy_tests.observe import Observer
from monitor.policy_tests.schema import Case
from monitor.sidecar.prefix.states import PrefixStates
from monitor.v1.tap_pb2 import GapReason

MILLISECOND = 1_000_000
FORWARD_END = 1_000 * MILLISECOND
ROWS = None


def policy(threshold: float, on_unseen: str, phases: list[str]) -> str:
    detector = {
        "id": "a",
        "source": {"saeLatents": {"sae": "tiny", "latents": [{"index": 1}]}},
        "aggregate": {"kind": "rolling_mean", "window": 1, "skip": []},
        "threshold": {"fire": 1},
    }
    rules = [
        {"id": "NOW", "when": "a.fire", "severity": "high", "deadlineMs": 20, "onTimeout": "alert"},
        {
            "id": "HELD",
            "when": "a.fire",
            "for": "2 tokens",
            "severity": "low",
            "deadlineMs": 15,
            "onTimeout": "continue",
        },
    ]
    spec = {
        "mode": "alert",
        "match": {"phases": phases},
        "detectors": [detector],
        "rules": rules,
        "onUnseen": on_unseen,
        "onDrop": {"threshold": threshold},
    }
    document = {"apiVersion": "monitor/v1", "kind": "Policy", "metadata": {"name": "p", "revision": 1}, "spec": spec}
    return json.dumps(document)


def reason(word: str, first: int) -> GapReason.ValueType | None:
    if word == "observed":
        return ROWS
    if word == "dropped":
        return QUEUE_FULL
    return GapReason.GAP_REASON_TAP_ERROR if first else PREFIX


# Making an engine may compile its kernel.
@settings(deadline=None, max_examples=60)
@given(
    runs=st.lists(
        st.tuples(st.sampled_from(["observed", "observed", "dropped", "unseen"]), st.integers(1, 5)), min_size=1
    ),
    prompt=st.integers(1, 20),
    threshold=st.sampled_from([0.0, 0.2, 0.5]),
    on_unseen=st.sampled_from(["accept", "alert"]),
    phases=st.sampled_from([["prompt", "response"], ["response"]]),
    milliseconds=st.sampled_from([10, 17, 50]),
)
def test_the_same_is_told(
    *,
    runs: list[tuple[str, int]],
    prompt: int,
    threshold: float,
    on_unseen: str,
    phases: list[str],
    milliseconds: int,
) -> None:
    words = [word for word, count in runs for _ in range(count)]
    prompt = min(prompt, len(words))
    tokens = [6 + position % 4 for position in range(len(words))]
    request, text = Request(1, tokens[:prompt], tokens[prompt:]), policy(threshold, on_unseen, phases)
    plan = plan_of([text])
    judge = judge_of(plan, PrefixStates(0), 0, clock=lambda: FORWARD_END + milliseconds * MILLISECOND)
    told, first = [], 0
    for seq, (word, items) in enumerate(groupby(words), start=1):
        last = first + len(list(items))
        message = frame(plan, seq, [Piece(request, first, last, reason(word, first))])
        message.forward_end_unix_nanos = FORWARD_END
        told += [
            (alert.rule, alert.position, alert.late, int(alert.severity), alert.mode)
            for alert in judge.apply(message).alerts
        ]
        first = last
    case = Case.model_validate(
        {
            "name": "same",
            "tokens": {"a": " ".join(repr(float(score)) for score in request.acts(0, len(words), plan)[:, 0])},
            "prompt": prompt,
            "seen": " ".join(words),
            "verdictAfterMs": milliseconds,
            "expect": [],
        }
    )
    (shown,) = Observer(parse_policy(text)).observe(case).requests
    assert shown.verdict.situation.mode is Mode.ALERT
    found = [(one.rule, one.at, one.late, int(one.severity), Mode.ALERT) for one in shown.firings]
    assert sorted(found) == sorted(told)
