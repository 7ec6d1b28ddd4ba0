"""Verdicts after a rule's deadline, by a clock of the test's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prefix_kit import Piece, Request, frame, judge_of, plan_of

from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.prefix.states import PrefixStates
from monitor.v1.alerts_pb2 import Mode

MILLISECOND = 1_000_000
FORWARD_END = 1_000 * MILLISECOND


def policy(name: str, phases: list[str], **rule: Any) -> str:
    """Its rule fires on every token of a phase at once."""
    detector = {
        "id": "a",
        "source": {"saeLatents": {"sae": "tiny", "latents": [{"index": 1}]}},
        "aggregate": {"kind": "max", "skip": []},
        "threshold": {"fire": -100},
    }
    rules = [{"id": "R", "when": "a.fire", "severity": "high", **rule}]
    spec = {"mode": "alert", "match": {"phases": phases}, "detectors": [detector], "rules": rules}
    document = {"apiVersion": "monitor/v1", "kind": "Policy", "metadata": {"name": name, "revision": 1}, "spec": spec}
    return json.dumps(document)


def judged(texts: list[str], milliseconds: float, requests: list[Request]) -> tuple[PolicyLedger, list[Any]]:
    """What is told and counted when a frame is judged so long after its forward pass."""
    ledger, plan = PolicyLedger(), plan_of(texts)
    now = FORWARD_END + int(milliseconds * MILLISECOND)
    judge = judge_of(plan, PrefixStates(0), 0, ledger=ledger, clock=lambda: now)
    message = frame(plan, 1, [Piece(request, 0, len(request.tokens)) for request in requests])
    message.forward_end_unix_nanos = FORWARD_END
    alerts = judge.apply(message).alerts
    return ledger, [(alert.policy, alert.rule, alert.request_id[-1], alert.position, alert.late) for alert in alerts]


@pytest.mark.parametrize(("milliseconds", "late"), [(-5, False), (0, False), (20, False), (20.001, True)])
def test_a_verdict_is_late_once_its_deadline_has_passed(milliseconds: float, late: bool) -> None:
    text = policy("p", ["prompt", "response"], deadlineMs=20)
    ledger, alerts = judged([text], milliseconds, [Request(1, [6, 7], [8])])
    assert alerts == [("p", "R", "1", 0, late)]
    assert ledger.rules["p", "R"].late == (3 if late else 0)


def test_each_policy_with_a_late_rule_tells_it_once_a_request() -> None:
    texts = [
        policy("a", ["prompt", "response"], deadlineMs=20, onTimeout="alert"),
        policy("b", ["response"], deadlineMs=10, onTimeout="alert"),
        policy("c", ["prompt", "response"], deadlineMs=10, onTimeout="continue"),
        policy("d", ["prompt", "response"]),
        policy("e", ["prompt", "response"], deadlineMs=1000, onTimeout="alert"),
    ]
    ledger, alerts = judged(texts, 30, [Request(1, [6, 7], [8, 9]), Request(2, [6, 7], [])])
    timeouts = [alert for alert in alerts if alert[1] == "on-timeout"]
    # At the first row that it judged; request 2 has no response.
    assert sorted(timeouts) == [
        ("a", "on-timeout", "1", 0, True),
        ("a", "on-timeout", "2", 0, True),
        ("b", "on-timeout", "1", 2, True),
    ]
    late = {name: {alert[4] for alert in alerts if alert[:2] == (name, "R")} for name in "abcde"}
    assert late == {"a": {True}, "b": {True}, "c": {True}, "d": {False}, "e": {False}}
    assert {name: ledger.rules[name, "R"].late for name in "abcde"} == {"a": 6, "b": 2, "c": 6, "d": 0, "e": 0}


def test_a_forward_pass_of_unknown_time_is_not_late() -> None:
    ledger, plan = PolicyLedger(), plan_of([policy("p", ["prompt"], deadlineMs=1, onTimeout="alert")])
    judge = judge_of(plan, PrefixStates(0), 0, ledger=ledger, clock=lambda: FORWARD_END)
    alerts = judge.apply(frame(plan, 1, [Piece(Request(1, [6], []), 0, 1)])).alerts
    assert [(alert.rule, alert.late, alert.mode) for alert in alerts] == [("R", False, Mode.MODE_ALERT)]
    assert ledger.rules["p", "R"].late == 0
