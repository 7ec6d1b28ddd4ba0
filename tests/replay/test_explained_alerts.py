"""Alerts of correlations and of reserved rules, with why they were sent."""

from __future__ import annotations

import pytest
from record_samples import MADE_OF, POLICY, policy, read, record

from monitor.cli.policy.explained import head_lines, span_lines
from monitor.cli.policy.explained_json import as_json
from monitor.errors import FeaturewatchError
from monitor.replay import Recorded, explain
from monitor.v1.alerts_pb2 import Alert
from monitor.v1.coverage_pb2 import Coverage
from monitor.v1.generations_pb2 import CoverageGap

BLIND = POLICY.replace("  detectors:", "  onUnseen: alert\n  onDrop: {threshold: 0.01}\n  detectors:")
BLIND = BLIND.replace("severity: high}", "severity: high, deadlineMs: 50, onTimeout: alert}")
BLIND += """\
  correlations:
    - {id: BIO-MANY, kind: count, rules: [BIO-001], within: 10m, atLeast: 3, severity: critical}
    - {id: BIO-BOTH, kind: ordered, rules: [BIO-002, BIO-001], groupBy: [], within: 1h, severity: high}
"""
SCORES = [0.0, 0, 1.8, 4, 4, 4, 0, -1.5]


def recorded() -> Recorded:
    """A generation with every such alert; BIO-001 fires at token 4."""
    made = record(SCORES, of=policy(BLIND))
    (fired,) = made.alerts
    fired.alert_id, fired.late, fired.latency_nanos = "own", True, 120_000_000
    made.summary.coverage.CopyFrom(Coverage(positions=12, observed=8, unseen=3, dropped=1))
    for first, count, reason in ((8, 3, "unseen: prefix cache"), (11, 1, "dropped: queue full")):
        made.gaps.append(CoverageGap(first_position=first, count=count, reason=reason))
    others = [f"alert-{number}" for number in range(8)]
    for alert in (
        Alert(rule="on-unseen", position=8, unseen_positions=3),
        Alert(rule="on-drop", position=11, dropped_positions=1, mode=2),
        Alert(rule="on-timeout", position=4, late=True, latency_nanos=120_000_000),
        Alert(rule="BIO-MANY", position=4, correlated=[*others, "own"], severity=5),
        Alert(rule="on-unseen", policy="another", unseen_positions=9),
    ):
        made.alerts.append(alert)
        made.alerts[-1].policy = alert.policy or "bio"
        made.alerts[-1].mode = alert.mode or 3
        made.alerts[-1].severity = alert.severity or 2
    return read(made)


def head(rule: str = "") -> list[str]:
    one = recorded()
    return [line.plain.strip() for line in head_lines(explain(one, policy(BLIND), {}, rule), one)]


def test_each_is_told_with_its_cause() -> None:
    told = head()
    assert "correlation BIO-MANY: at least 3 firings of BIO-001 within 10m, per tenant" in told
    assert "correlation BIO-BOTH: BIO-002, BIO-001 in this order within 1h" in told
    first = next(number for number, line in enumerate(told) if line.startswith("alert "))
    assert told[first : first + 6] == [
        "alert on-unseen at token 8 (low): 3 positions from there on stayed unseen, and onUnseen is alert; "
        "at its end positions 8–10 (unseen: prefix cache)",
        "alert on-drop at token 11 (low, shadow): 1 of 12 positions (8.33 %) were dropped, onDrop bears 1 %: "
        "position 11 (dropped: queue full)",
        "alert on-timeout at token 4 (low): the verdict on it came 120 ms after its forward pass, with onTimeout "
        "alert; deadlines that were over: BIO-001 50 ms",
        "alert BIO-MANY at token 4 (critical): at least 3 firings of BIO-001 within 10m, per tenant",
        "of this generation: BIO-001 at token 4",
        "alerts of other generations: 3 earlier (--json has all), alert-3, alert-4, alert-5, alert-6, alert-7",
    ]
    assert not any("another" in line or "9 positions" in line for line in told)


def test_a_rule_that_was_late_says_by_how_much() -> None:
    one = recorded()
    lines = [line.plain.strip() for line in span_lines(explain(one, policy(BLIND), {}), one)]
    assert "late: 120 ms after its forward pass, the deadline is 50 ms" in lines


def test_one_of_them_alone() -> None:
    drop = head("on-drop")
    assert [line.split()[:2] for line in drop if line.startswith(("alert", "detector", "rule", "correlation"))] == [
        ["alert", "on-drop"]
    ]
    both = head("BIO-BOTH")
    assert "no alert BIO-BOTH: nothing on this generation completed it" in both
    assert [line.split()[1] for line in both if line.startswith("rule")] == ["BIO-001:", "BIO-002:"]
    stale = (
        "no alert on-stale: it tells of a tap, and is in no generation's record; here: it was served as fittedOn says"
    )
    assert stale in head("on-stale")
    assert not [line for line in head("BIO-002") if line.startswith(("alert", "no alert", "correlation"))]
    with pytest.raises(FeaturewatchError, match="it has BIO-001, BIO-002, BIO-MANY, BIO-BOTH"):
        head("BIO-FEW")


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("on-unseen", "0 positions were unseen, onUnseen is accept"),
        ("on-drop", "0 of 8 positions were dropped, there is no onDrop"),
        ("on-timeout", "no rule has onTimeout alert"),
    ],
)
def test_one_that_was_not_sent_says_why_not(rule: str, why: str) -> None:
    one = read(record(SCORES))
    told = explain(one, policy(), {}, rule)
    assert f"no alert {rule}: {why}" in [line.plain.strip() for line in head_lines(told, one)]
    assert [*span_lines(told, one)] == []


def test_of_another_policy_none_of_them_is_made_up() -> None:
    one = recorded()
    other = policy(BLIND.replace("revision: 1", "revision: 2"))
    told = explain(one, other, MADE_OF)
    assert told.others == ()
    expected = (
        "alerts of on-unseen, on-drop, on-timeout, BIO-MANY, BIO-BOTH: they are told of the policy that judged only"
    )
    assert expected in told.unknown
    assert explain(one, policy(POLICY.replace("revision: 1", "revision: 2")), MADE_OF).unknown == ()


def test_machines_get_all_of_it() -> None:
    one = recorded()
    unseen, drop, late, many = as_json(explain(one, policy(BLIND), {}), one)["alerts"]
    assert (unseen["rule"], unseen["position"], unseen["unseenPositions"]) == ("on-unseen", 8, 3)
    assert unseen["gaps"] == [{"first": 8, "count": 3, "reason": "unseen: prefix cache"}]
    assert (drop["droppedPositions"], drop["mode"]) == (1, "shadow")
    assert (late["latencyMs"], late["deadlinesMs"]) == (120.0, {"BIO-001": 50})
    assert (len(many["correlated"]), many["severity"]) == (9, "critical")


def test_a_range_is_the_lowest_and_the_highest_of_the_tokens_told_together() -> None:
    one = read(record([0.0, 0.2, -0.4, 0.9, 0.1, 0.3], prompt=1))
    told = explain(one, policy(), {})
    assert [(span.first, span.last) for span in told.spans] == [(0, 0), (1, 5)]
    legend, *lines = (line.plain for line in span_lines(told, one))
    assert "their scores → its aggregate, both lowest … highest" in legend
    (smooth,) = (line for line in lines[2:] if "smooth" in line and "…" in line)
    scores = list(told.scores_pd[1:, 0])
    assert f"token -0.4 … 0.9  → {min(scores):.3g} … {max(scores):.3g}" in smooth
    assert (scores[0], scores[-1]) != (min(scores), max(scores))
