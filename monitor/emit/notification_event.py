"""A notification as a flat event."""

from __future__ import annotations

from monitor.emit.event import Event, Fields, utc
from monitor.rpc import name_of
from monitor.v1.alerts_pb2 import Notification, Severity


def notification_event(notification: Notification) -> Event:
    """The flat event of a notification; docs/sidecar.md lists its fields."""
    fields: Fields = {
        "event_id": notification.notification_id,
        "event": "notification",
        "time": utc(notification.time_unix_nanos),
        "time_unix_nanos": notification.time_unix_nanos,
        "severity": name_of(Severity, notification.max_severity),
        "policy": notification.policy,
        "owner": notification.owner,
        "runbook": notification.runbook,
        "new_alerts": notification.new_alerts,
        "alerts": notification.alerts,
        "first_time": utc(notification.first_unix_nanos),
        "first_unix_nanos": notification.first_unix_nanos,
        "last_time": utc(notification.last_unix_nanos),
        "last_unix_nanos": notification.last_unix_nanos,
        "alert_ids": ",".join(notification.alert_ids),
    }
    fields |= {f"group_{name}": value for name, value in sorted(notification.group.items())}
    return Event.of(notification.notification_id, fields)
