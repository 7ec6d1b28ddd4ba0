"""What policies do and how they stand, as Prometheus metric families. Labels are names in the policy files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric

from monitor.policy import Mode
from monitor.rpc import name_of
from monitor.sidecar.ledger import PolicyLedger, RuleCounts
from monitor.sidecar.metrics.samples import counters, gauges
from monitor.sidecar.policy_status import PolicyStanding
from monitor.v1.alerts_pb2 import Mode as ModeCode
from monitor.v1.alerts_pb2 import Severity

_OF_RULES: Final[tuple[tuple[str, str, Callable[[RuleCounts], int]], ...]] = (
    (
        "would_alert",
        "Alerts of a policy in shadow mode: those that mode alert would have sent.",
        lambda counts: counts.would_alert,
    ),
    (
        "excepted_alerts",
        "Alerts that were only recorded because an exception of their rule held.",
        lambda counts: counts.excepted,
    ),
    ("late_rows", "Rows on which a rule was judged after its deadlineMs.", lambda counts: counts.late),
)


def policy_families(ledger: PolicyLedger, standings: Sequence[PolicyStanding]) -> Iterator[Metric]:
    """Rules of the policies in force are there from the start, with 0; what others counted stays."""
    yield counters(
        "featurewatch_alerts",
        "Alerts by policy, rule, mode in force and severity.",
        ("policy", "rule", "mode", "severity"),
        [
            ((kind.policy, kind.rule, name_of(ModeCode, kind.mode), name_of(Severity, kind.severity)), count)
            for kind, count in sorted(ledger.by_kind.items())
        ],
    )
    yield counters(
        "featurewatch_policy_rows_judged",
        "Rows that at least one detector of a policy judged.",
        ("policy",),
        [((policy,), count) for policy, count in sorted(ledger.rows_judged.items())],
    )
    known = {(standing.name, rule): RuleCounts() for standing in standings for rule in standing.rules}
    for name, help_text, count in _OF_RULES:
        yield _of_rules(f"featurewatch_{name}", help_text, {**known, **ledger.rules}, count)
    yield gauges(
        "featurewatch_policy_stale",
        "1 where a tap serves another configuration than the policy was fitted on: it is in shadow mode there.",
        ("policy",),
        [((standing.name,), float(standing.stale)) for standing in standings],
    )
    yield gauges(
        "featurewatch_policy_mode",
        "1 at the mode in force, the lowest over all taps; 0 at the others.",
        ("policy", "mode"),
        [((standing.name, mode.name.lower()), float(mode is standing.mode)) for standing in standings for mode in Mode],
    )


def _of_rules(
    name: str,
    help_text: str,
    counts: dict[tuple[str, str], RuleCounts],
    count: Callable[[RuleCounts], int],
) -> CounterMetricFamily:
    return counters(
        name, help_text, ("policy", "rule"), [(rule, count(found)) for rule, found in sorted(counts.items())]
    )
