"""Alerts of a record that no condition of a rule explains: of correlations, and of reserved rules such as on-drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitor.policy import DROP_RULE, TIMEOUT_RULE, UNSEEN_RULE, Policy
from monitor.policy.built_in_rules import built_in_rules
from monitor.policy.schema.rule import Correlation, Rule
from monitor.replay.recorded import Recorded
from monitor.v1.alerts_pb2 import Alert
from monitor.v1.generations_pb2 import CoverageGap


@dataclass(frozen=True)
class OtherAlert:
    """One of them, with what the record holds about its cause.

    Attributes:
        gaps: of on-unseen the positions that were not seen, from the alert's on; of on-drop those that were dropped.
        late: of on-timeout the rules whose deadline was over and that ask for the alert.
        correlation: that fired; None for a reserved rule.
        here: alerts of this generation that the correlation is made of; what completed it is the last.
        elsewhere: ids of the others, which other generations have.
    """

    alert: Alert
    gaps: tuple[CoverageGap, ...] = ()
    late: tuple[Rule, ...] = ()
    correlation: Correlation | None = None
    here: tuple[Alert, ...] = ()
    elsewhere: tuple[str, ...] = ()


def other_alerts(recorded: Recorded, policy: Policy) -> list[OtherAlert]:
    """Of a policy that judged, in the order in which they were made."""
    correlations = {one.id: one for one in policy.document.spec.correlations}
    found = []
    for alert in recorded.record.alerts:
        if alert.policy != policy.name:
            continue
        if alert.rule == UNSEEN_RULE:
            found.append(OtherAlert(alert, gaps=_gaps(recorded, "unseen:", alert.position)))
        elif alert.rule == DROP_RULE:
            found.append(OtherAlert(alert, gaps=_gaps(recorded, "dropped:", 0)))
        elif alert.rule == TIMEOUT_RULE:
            found.append(OtherAlert(alert, late=overdue_rules(policy, alert.latency_nanos)))
        elif alert.rule in correlations:
            found.append(_correlated(alert, correlations[alert.rule], recorded.record.alerts))
    return found


def overdue_rules(policy: Policy, latency_nanos: int) -> tuple[Rule, ...]:
    """Rules that ask for an alert when their deadline is over, and whose deadline was so long after a forward pass."""
    return tuple(
        rule
        for rule in policy.document.spec.rules
        if rule.on_timeout == "alert" and rule.deadline_ms is not None and latency_nanos > rule.deadline_ms * 1_000_000
    )


def asked_for(policy: Policy) -> list[str]:
    """Which alerts of this kind a policy can send: ids of reserved rules and of correlations."""
    return [*built_in_rules(policy), *(correlation.id for correlation in policy.document.spec.correlations)]


def _gaps(recorded: Recorded, kind: str, first: int) -> tuple[CoverageGap, ...]:
    gaps = recorded.record.gaps
    return tuple(gap for gap in gaps if gap.reason.startswith(kind) and gap.first_position + gap.count > first)


def _correlated(alert: Alert, correlation: Correlation, alerts: Sequence[Alert]) -> OtherAlert:
    own = {one.alert_id: one for one in alerts}
    here = tuple(own[id_] for id_ in alert.correlated if id_ in own)
    elsewhere = tuple(id_ for id_ in alert.correlated if id_ not in own)
    return OtherAlert(alert, correlation=correlation, here=here, elsewhere=elsewhere)
