"""A policy's correlations over what its rules would have done on recorded generations."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.policy import DROP_RULE, Policy, Severity
from monitor.policy.alert_facts import AlertFacts
from monitor.policy.correlators import Correlators
from monitor.replay.recorded import Recorded
from monitor.replay.rejudge import ReplayedFiring


@dataclass(frozen=True, order=True)
class _When:
    """Where a firing stands among all: by time, and within a generation by position."""

    unix_nanos: int
    start_unix_nanos: int
    generation: str
    number: int


class CorrelatedReplay:
    """Takes generations in any order; only their firings are kept.

    Attributes:
        unknown: why a correlation cannot be replayed, by its id; absent where it can.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        correlations = policy.document.spec.correlations
        self.unknown = {
            one.id: "it groups by tap, and records do not say which tap it was"
            for one in correlations
            if "tap" in one.group_by
        }
        self._correlations = tuple(one for one in correlations if one.id not in self.unknown)
        self._firings: list[tuple[_When, AlertFacts]] = []

    def add(self, recorded: Recorded, firings: tuple[ReplayedFiring, ...]) -> None:
        """What rules would have done on one generation."""
        if not self._correlations:
            return
        times, start = _known_times(recorded), recorded.record.summary.start_unix_nanos
        latest = start
        for number, firing in enumerate(firings):
            latest = max(latest, times.get(firing.position, start))
            self._firings.append((_When(latest, start, recorded.id, number), _facts(recorded, firing, latest)))

    def completed(self) -> dict[str, list[str]]:
        """By correlation the generations on which it would have fired, in order of time; one counts once."""
        correlators = Correlators()
        found: dict[str, dict[str, None]] = {one.id: {} for one in self._correlations}
        for when, facts in sorted(self._firings, key=lambda firing: firing[0]):
            completed = correlators.observe(self._policy.name, self._correlations, facts, when.unix_nanos)
            for one in completed:
                found[one.correlation.id][when.generation] = None
        return {correlation: list(generations) for correlation, generations in found.items()}


def recorded_correlations(recorded: Recorded, policy: str) -> set[str]:
    """Ids of the correlations of the recorded policy of this name that fired on a generation."""
    was = recorded.policies.get(policy)
    known = {one.id for one in was.document.spec.correlations} if was else set()
    return {alert.rule for alert in recorded.record.alerts if alert.policy == policy and alert.rule in known}


def _known_times(recorded: Recorded) -> dict[int, int]:
    """When positions were judged, as far as alerts say it; that of a drop comes at the end of the generation."""
    times: dict[int, int] = {}
    for alert in recorded.record.alerts:
        if alert.rule != DROP_RULE and alert.time_unix_nanos:
            times.setdefault(alert.position, alert.time_unix_nanos)
    return times


def _facts(recorded: Recorded, firing: ReplayedFiring, unix_nanos: int) -> AlertFacts:
    summary = recorded.record.summary
    return AlertFacts(
        alert_id=f"{recorded.id}/{firing.rule.id}/{firing.position}",
        time_unix_nanos=unix_nanos,
        rule=firing.rule.id,
        severity=Severity[firing.rule.severity.upper()],
        tenant=summary.tenant,
        model=summary.model,
        adapter=summary.adapter,
        tap="",
        generation=recorded.id,
        exception=firing.exception,
    )
