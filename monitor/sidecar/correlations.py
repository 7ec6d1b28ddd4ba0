"""Runs the correlations of all policies over the firings of all taps."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from monitor.policy import Severity
from monitor.policy.alert_facts import AlertFacts
from monitor.policy.correlate import Correlator
from monitor.policy.schema.document import PolicyDocument
from monitor.policy.schema.rule import Correlation
from monitor.sidecar.alerting import stable_id
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.verdicts import Verdicts
from monitor.v1.alerts_pb2 import Alert
from monitor.v1.alerts_pb2 import Severity as SeverityCode

_log = logging.getLogger(__name__)

#: Correlations whose state is kept. A reload that changes one leaves the state of its older text behind.
MOST_CORRELATIONS: Final = 1024


class Correlations:
    """The state of every correlation that something fired for, across taps, and across reloads that leave its text.

    Used between frames only: by whoever judges, one at a time.

    Attributes:
        evicted: by policy, groups that made room for others while their firings still counted.
        failed: alerts whose correlations could not be followed.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` gives nanoseconds that never go back, as `time.monotonic_ns` does."""
        self.evicted: Counter[str] = Counter()
        self.failed = 0
        self._clock = clock
        self._correlators: OrderedDict[tuple[str, Correlation], Correlator] = OrderedDict()

    def follow(self, verdicts: Verdicts, tap_id: str, ledger: PolicyLedger) -> None:
        """Adds the alerts of correlations behind those that complete them, to the books of their requests too.

        What an exception holds back completes nothing.
        """
        if not verdicts.alerts:
            return
        requests = {request.identity.generation_id: request for request in verdicts.flagged}
        alerts = []
        for alert in verdicts.alerts:
            alerts.append(alert)
            request = requests.get(alert.generation_id)
            if request is None or alert.exception:
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
        named = [
            correlation
            for correlation in _policy_of(request, alert).spec.correlations
            if alert.rule in correlation.rules
        ]
        if not named:
            return []
        facts = facts_of(alert, tap_id, request.identity.adapter)
        completed = [(correlation, self._observe(alert.policy, correlation, facts)) for correlation in named]
        return [_alert_of(correlation, alert, ids) for correlation, ids in completed if ids]

    def _observe(self, policy: str, correlation: Correlation, facts: AlertFacts) -> tuple[str, ...]:
        now = self._clock()
        key = policy, correlation
        correlator = self._correlators.get(key)
        if correlator is None:
            correlator = self._correlators[key] = Correlator(correlation)
            self._drop_old(now)
        self._correlators.move_to_end(key)
        before = correlator.evicted
        ids = correlator.observe(facts, now)
        self._evict(policy, correlator.evicted - before)
        return ids

    def _drop_old(self, now: int) -> None:
        """Forgets correlations of which nothing counts any more, which changes nothing, then the least recent."""
        for key, correlator in [*self._correlators.items()][:-1]:
            correlator.forget(now)
            if not len(correlator):
                del self._correlators[key]
        while len(self._correlators) > MOST_CORRELATIONS:
            (policy, _), correlator = self._correlators.popitem(last=False)
            self._evict(policy, len(correlator))

    def _evict(self, policy: str, groups: int) -> None:
        if not groups:
            return
        if not self.evicted[policy]:
            _log.warning("policy %s: correlations forget groups, because too many fire at a time", policy)
        self.evicted[policy] += groups


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
