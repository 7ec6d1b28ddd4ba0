"""The flat event of a notification."""

import json

from monitor.emit import Event, notification_event
from monitor.v1.alerts_pb2 import Notification, Severity


def make_notification() -> Notification:
    return Notification(
        notification_id="notification-1",
        time_unix_nanos=1_700_000_030_000_000_000,
        policy="loud",
        group={"tenant": "acme\u2028", "rule": "LOUD-001"},
        new_alerts=2,
        alerts=7,
        max_severity=Severity.SEVERITY_HIGH,
        first_unix_nanos=1_700_000_000_123_000_000,
        last_unix_nanos=1_700_000_010_000_000_000,
        alert_ids=["alert-7", "alert-6"],
        runbook="https://example.org/loud",
        owner="oncall@example.org",
    )


def test_a_notification_is_one_line_of_flat_json_with_an_event_type_of_its_own() -> None:
    event = notification_event(make_notification())
    assert event.line.isascii()
    assert "\n" not in event.line
    assert json.loads(event.line) == {
        "event_id": "notification-1",
        "event": "notification",
        "time": "2023-11-14T22:13:50.000+00:00",
        "time_unix_nanos": 1_700_000_030_000_000_000,
        "severity": "high",
        "policy": "loud",
        "owner": "oncall@example.org",
        "runbook": "https://example.org/loud",
        "new_alerts": 2,
        "alerts": 7,
        "first_time": "2023-11-14T22:13:20.123+00:00",
        "first_unix_nanos": 1_700_000_000_123_000_000,
        "last_time": "2023-11-14T22:13:30.000+00:00",
        "last_unix_nanos": 1_700_000_010_000_000_000,
        "alert_ids": "alert-7,alert-6",
        "group_rule": "LOUD-001",
        "group_tenant": "acme\u2028",
    }
    assert Event.from_line(event.line) == event


def test_alerts_that_are_not_grouped_have_no_group() -> None:
    notification = make_notification()
    notification.group.clear()
    assert not [name for name in notification_event(notification).fields if name.startswith("group_")]
