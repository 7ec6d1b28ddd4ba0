"""Carries verdicts to where they belong: watchers, sinks, the audit store, the ring of recent summaries."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from monitor.audit import AuditWriter, RecentSummaries
from monitor.audit.writer import BuildRecord
from monitor.emit import Delivery, Event, alert_event, notification_event
from monitor.policy import Policy
from monitor.sidecar.alert_hub import AlertHub
from monitor.sidecar.correlations import facts_of
from monitor.sidecar.evidence.capture import Subject
from monitor.sidecar.evidence.ended_requests import subject_of
from monitor.sidecar.judge import TapJudge
from monitor.sidecar.notifications import Notifications
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.records import prepare_record
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.verdicts import Verdicts
from monitor.v1.alerts_pb2 import Alert, Mode
from monitor.v1.generations_pb2 import GenerationSummary

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptureOrder:
    """A rule with `capture` began to fire; `reason` is "<policy>/<rule>"."""

    subject: Subject
    reason: str


@dataclass
class Outcome:
    """Verdicts cut loose from live state, so that they can leave whoever judges.

    Attributes:
        records: generation id and what builds its record.
        captures: what rules ask of the tap, once per request.
        ended: generations that have ended.
        notifying: by the hash of their text, policies of these alerts that gather them into notifications.
    """

    alerts: list[Alert] = field(default_factory=list)
    records: list[tuple[str, BuildRecord]] = field(default_factory=list)
    unflagged: list[GenerationSummary] = field(default_factory=list)
    captures: list[CaptureOrder] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    notifying: dict[str, Policy] = field(default_factory=dict)

    @classmethod
    def of(cls, verdicts: Verdicts, judge: TapJudge) -> Outcome:
        """A flagged request is written when a rule fires, lest a crash take the evidence, and at its end."""
        outcome = cls(alerts=verdicts.alerts)
        outcome._add([request for request in verdicts.flagged if request not in verdicts.ended], judge)
        outcome._add(verdicts.ended, judge)
        outcome.captures = _captures(verdicts, judge)
        outcome.ended = [request.identity.generation_id for request in verdicts.ended]
        if verdicts.alerts:
            outcome.notifying = _notifying([judge.plan, *(request.plan for request in verdicts.flagged)])
        return outcome

    @classmethod
    def of_policies(cls, alerts: list[Alert], plan: TapPlan) -> Outcome:
        """Alerts that are of no request."""
        return cls(alerts=alerts, notifying=_notifying([plan]))

    @classmethod
    def of_requests(cls, requests: Sequence[LiveRequest], judge: TapJudge) -> Outcome:
        """What is known of requests, without alerts."""
        outcome = cls()
        outcome._add(requests, judge)
        return outcome

    def _add(self, requests: Sequence[LiveRequest], judge: TapJudge) -> None:
        for request in requests:
            generation_id = request.identity.generation_id
            try:
                if request.alerts or request.kept:
                    self.records.append((generation_id, prepare_record(request, judge)))
                else:
                    self.unflagged.append(request.summary())
            except Exception:  # noqa: BLE001
                # Alerts and the records of the others must go out whatever is wrong with this one.
                _log.exception("generation %s: no record", generation_id)
                judge.problems.note("record failed", f"generation {generation_id}")


def _captures(verdicts: Verdicts, judge: TapJudge) -> list[CaptureOrder]:
    """What rules ask for, in the order of their alerts; a request is asked for once."""
    orders = []
    by_id = {request.identity.generation_id: request for request in verdicts.flagged}
    for alert in verdicts.alerts:
        request = by_id[alert.generation_id]
        # Not under an exception: what is only recorded asks nothing of the engine.
        wanted = alert.mode >= Mode.MODE_ALERT and (alert.policy, alert.rule) in request.plan.capturing
        if wanted and not request.followed:
            request.followed = True
            subject = subject_of(request, live=request not in verdicts.ended)
            orders.append(CaptureOrder(subject, f"{alert.policy}/{alert.rule}"))
    return orders


def _notifying(plans: Sequence[TapPlan]) -> dict[str, Policy]:
    policies = [served.policy for plan in plans for served in plan.served.values()]
    return {policy.sha256: policy for policy in policies if policy.document.spec.notify is not None}


class Publisher:
    """Used on the event loop; nothing here waits.

    Attributes:
        notifications: alerts that wait to be sent together.
    """

    def __init__(
        self, hub: AlertHub, deliveries: Sequence[Delivery], writer: AuditWriter, recent: RecentSummaries
    ) -> None:
        self._hub = hub
        self._deliveries = deliveries
        self._writer = writer
        self._recent = recent
        self.notifications = Notifications(lambda notification: self._emit(notification_event(notification)))

    def publish(self, outcome: Outcome, tap_id: str) -> None:
        """Alerts of policies in mode alert go to watchers and sinks, those in shadow to watchers who ask for them.

        Args:
            tap_id: of the tap that the outcome is of.
        """
        for alert in outcome.alerts:
            self._hub.publish(alert)
            if alert.mode >= Mode.MODE_ALERT:
                self._emit(alert_event(alert))
                policy = outcome.notifying.get(alert.policy_sha256)
                if policy is not None:
                    self.notifications.add(policy, facts_of(alert, tap_id))
        if outcome.notifying:
            self.notifications.send_due()
        for generation_id, build in outcome.records:
            self._writer.submit(build, generation_id)
        for summary in outcome.unflagged:
            self._recent.add(summary)

    def close(self) -> None:
        """Sends what waits to be sent together; nothing is published afterwards."""
        self.notifications.close()

    def _emit(self, event: Event) -> None:
        for delivery in self._deliveries:
            delivery.offer(event)
