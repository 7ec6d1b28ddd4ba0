"""Runs the correlations of all policies over the firings of all taps."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from monitor.policy import Severity
from monitor.policy.alert_facts import AlertFacts
from monitor.policy.correlators import Correlators
from monitor.policy.schema.document import PolicyDocument
from monitor.policy.schema.rule import Correlation
from monitor.sidecar.alerting import stable_id
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.verdicts import Verdicts
from monitor.v1.alerts_pb2 import Alert
from monitor.v1.alerts_pb2 import Severity as SeverityCode

_log = logging.getLogger(__name__)


class Correlations:
    """The state of every correlation that something fired for, across taps, and across reloads that leave its text.

    Used between frames only: by whoever judges, one at a time.

    Attributes:
        evicted: by policy, groups that made room for others while their firings still counted.
        failed: alerts whose correlations could not be followed.
    """

    def __init__(self, clock: Callable[[], int], correlators: Correlators | None = None) -> None:
        """`clock` gives nanoseconds that never go back, as `time.monotonic_ns` does; `correlators` have the state."""
        self.failed = 0
        self._clock = clock
        self._correlators = Correlators() if correlators is None else correlators
        self._told_evicted: set[str] = set()

    @property
    def evicted(self) -> Counter[str]:
        return self._correlators.evicted

    def follow(self, verdicts: Verdicts, tap_id: str, ledger: PolicyLedger) -> None:
        """Adds the alerts of correlations behind those that complete them, to the books of their requests too."""
        if not verdicts.alerts:
            return
        requests = {request.identity.generation_id: request for request in verdicts.flagged}
        alerts = []
        for alert in verdicts.alerts:
            alerts.append(alert)
            request = requests.get(alert.generation_id)
            if request is None:
                continue
            try:
                completed = self._completed(request, alert, tap_id)
            except Exception:  # noqa: BLE001
                # The alerts of rules must go out whatever is wrong with those of correlations.
                _log.exception("policy %s: correlations of alert %s", alert.policy, alert.alert_id)
                self.failed += 1
                request.notes.append(f"correlations of {alert.policy}/{alert.rule} could not be followed")
                continue
            for correlated in completed:
                request.add_alert(correlated, _policy_of(request, alert).spec.record.content)
                ledger.fired(correlated)
            alerts += completed
        verdicts.alerts = alerts

    def _completed(self, request: LiveRequest, alert: Alert, tap_id: str) -> list[Alert]:
        correlations = _policy_of(request, alert).spec.correlations
        if not correlations:
            return []
        facts = facts_of(alert, tap_id, request.identity.adapter)
        completed = self._correlators.observe(alert.policy, correlations, facts, self._clock())
        for policy in self.evicted.keys() - self._told_evicted:
            self._told_evicted.add(policy)
            _log.warning("policy %s: correlations forget groups, because too many fire at a time", policy)
        return [_alert_of(one.correlation, alert, one.alert_ids) for one in completed]


def _policy_of(request: LiveRequest, alert: Alert) -> PolicyDocument:
    return request.plan.served[alert.policy].policy.document


def facts_of(alert: Alert, tap_id: str, adapter: str = "") -> AlertFacts:
    return AlertFacts(
        alert_id=alert.alert_id,
        time_unix_nanos=alert.time_unix_nanos,
        rule=alert.rule,
        severity=Severity(alert.severity),
        tenant=alert.tenant,
        model=alert.model,
        adapter=adapter,
        tap=tap_id,
        generation=alert.generation_id,
        exception=alert.exception,
    )


def _alert_of(correlation: Correlation, completed_by: Alert, ids: tuple[str, ...]) -> Alert:
    """Stands where the alert that completed it stands; how detectors stood is told by the alerts it is made of."""
    alert = Alert()
    alert.CopyFrom(completed_by)
    alert.ClearField("readings")
    alert.ClearField("late")
    alert.alert_id = stable_id("correlation", completed_by.alert_id, correlation.id)
    alert.rule = correlation.id
    alert.severity = SeverityCode.ValueType(int(Severity[correlation.severity.upper()]))
    alert.correlated.extend(ids)
    return alert
