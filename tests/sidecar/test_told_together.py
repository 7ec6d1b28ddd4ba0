"""Alerts that one frame gave are in one notification, such as a rule's and that of the correlation it completes."""

from __future__ import annotations

from pathlib import Path

from correlated_world import correlated_policy

from monitor.audit import AuditStore, AuditWriter, RecentSummaries
from monitor.policy import parse_policy
from monitor.sidecar.alert_hub import AlertHub
from monitor.sidecar.notifications import Notifications
from monitor.sidecar.publisher import Outcome, Publisher
from monitor.v1.alerts_pb2 import Alert, Mode, Notification, Severity

SECOND = 1_000_000_000


async def test_what_came_together_is_told_together(tmp_path: Path) -> None:
    policy = parse_policy(correlated_policy(notify="{wait: 10s, interval: 5m}"))
    sent, now = list[Notification](), 0
    writer = AuditWriter(AuditStore(tmp_path / "audit.sqlite"))
    publisher = Publisher(AlertHub(), [], writer, RecentSummaries())
    publisher.notifications = Notifications(sent.append, clock=lambda: now)

    def publish(*ids: str) -> None:
        alerts = [
            Alert(
                alert_id=one,
                policy="loud",
                policy_sha256=policy.sha256,
                rule="LOUD-001",
                severity=Severity.SEVERITY_HIGH,
                mode=Mode.MODE_ALERT,
            )
            for one in ids
        ]
        publisher.publish(Outcome(alerts=alerts, notifying={policy.sha256: policy}), "tap")

    publish("first")
    now = 10 * SECOND
    publisher.notifications.send_due()
    # The interval is over: these are told at once, and none has to wait for another.
    now = 600 * SECOND
    publish("rule", "correlation")
    assert [list(one.alert_ids) for one in sent] == [["first"], ["correlation", "rule"]]
    publisher.close()
    writer.close(timeout_seconds=60)
