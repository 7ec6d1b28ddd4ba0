"""What each policy has judged and fired since the sidecar started, over all taps, and how fast."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import NamedTuple

from monitor.sidecar.metrics.latency import LatencyHistogram
from monitor.v1.alerts_pb2 import Alert, Mode


class AlertKind(NamedTuple):
    """What alerts are counted by; `mode` and `severity` are codes of the protocol's enums."""

    policy: str
    rule: str
    mode: int
    severity: int


@dataclass
class RuleCounts:
    """Firings of one rule since the sidecar started.

    Attributes:
        alerts: that were sent.
        would_alert: that would have been sent in mode alert.
        excepted: that were only recorded, because an exception held.
        late: rows that were judged after the rule's deadline.
    """

    alerts: int = 0
    would_alert: int = 0
    excepted: int = 0
    late: int = 0


class PolicyLedger:
    """Counters by policy name. Written by whoever judges, read by others.

    Attributes:
        rules: by policy and rule; those that never fired are missing.
        latency: from the end of a forward pass to the moment at which its rows were judged, per frame with rows.
    """

    def __init__(self) -> None:
        self.rows_judged: Counter[str] = Counter()
        self.alerts: Counter[str] = Counter()
        self.shadow_alerts: Counter[str] = Counter()
        self.by_kind: Counter[AlertKind] = Counter()
        self.rules: defaultdict[tuple[str, str], RuleCounts] = defaultdict(RuleCounts)
        self.latency = LatencyHistogram()

    def judged(self, policy: str, rows: int) -> None:
        self.rows_judged[policy] += rows

    def fired(self, alert: Alert) -> None:
        shadow = alert.mode < Mode.MODE_ALERT
        (self.shadow_alerts if shadow else self.alerts)[alert.policy] += 1
        counts = self.rules[alert.policy, alert.rule]
        if alert.exception:
            counts.excepted += 1
        elif shadow:
            counts.would_alert += 1
        else:
            counts.alerts += 1
        self.by_kind[AlertKind(alert.policy, alert.rule, alert.mode, alert.severity)] += 1

    def late(self, policy: str, rule: str, rows: int) -> None:
        self.rules[policy, rule].late += rows

    def copy(self) -> PolicyLedger:
        other = PolicyLedger()
        other.rows_judged, other.alerts = Counter(self.rows_judged), Counter(self.alerts)
        other.shadow_alerts, other.by_kind = Counter(self.shadow_alerts), Counter(self.by_kind)
        other.rules.update((rule, replace(counts)) for rule, counts in self.rules.items())
        other.latency = self.latency.copy()
        return other
