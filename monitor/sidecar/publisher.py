"""Carries verdicts to where they belong: watchers, sinks, the audit store, the ring of recent summaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from monitor.audit import AuditWriter, RecentSummaries
from monitor.audit.writer import BuildRecord
from monitor.emit import Delivery, alert_event
from monitor.sidecar.alert_hub import AlertHub
from monitor.sidecar.judge import TapJudge, Verdicts
from monitor.sidecar.records import prepare_record
from monitor.sidecar.request import LiveRequest
from monitor.v1.alerts_pb2 import Alert, Mode
from monitor.v1.generations_pb2 import GenerationSummary


@dataclass
class Outcome:
    """Verdicts cut loose from live state, so that they can leave the judging thread."""

    alerts: list[Alert] = field(default_factory=list)
    records: list[BuildRecord] = field(default_factory=list)
    unflagged: list[GenerationSummary] = field(default_factory=list)

    @classmethod
    def of(cls, verdicts: Verdicts, judge: TapJudge) -> Outcome:
        """A flagged request is written when a rule fires, lest a crash take the evidence, and at its end."""
        outcome = cls(alerts=verdicts.alerts)
        for request in verdicts.flagged:
            if request not in verdicts.ended:
                outcome.records.append(prepare_record(request, judge))
        outcome._add_ended(verdicts.ended, judge)
        return outcome

    @classmethod
    def of_ended(cls, requests: Sequence[LiveRequest], judge: TapJudge) -> Outcome:
        outcome = cls()
        outcome._add_ended(requests, judge)
        return outcome

    def _add_ended(self, requests: Sequence[LiveRequest], judge: TapJudge) -> None:
        for request in requests:
            if request.alerts:
                self.records.append(prepare_record(request, judge))
            else:
                self.unflagged.append(request.summary(judge.plan.policies.detectors))


class Publisher:
    """Used on the event loop; nothing here waits."""

    def __init__(
        self, hub: AlertHub, deliveries: Sequence[Delivery], writer: AuditWriter, recent: RecentSummaries
    ) -> None:
        self._hub = hub
        self._deliveries = deliveries
        self._writer = writer
        self._recent = recent

    def publish(self, outcome: Outcome) -> None:
        """Alerts of policies in mode alert go to watchers and sinks, those in shadow to watchers who ask for them."""
        for alert in outcome.alerts:
            self._hub.publish(alert)
            if alert.mode >= Mode.MODE_ALERT:
                event = alert_event(alert)
                for delivery in self._deliveries:
                    delivery.offer(event)
        for record in outcome.records:
            self._writer.submit(record)
        for summary in outcome.unflagged:
            self._recent.add(summary)
