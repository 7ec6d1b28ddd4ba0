"""Carries alerts out of the sidecar: flat events, bounded outboxes, sinks. Nothing here ever blocks judging."""

from monitor.emit.delivery import Delivery, DeliveryStats
from monitor.emit.event import Event, alert_event, leading_reading
from monitor.emit.jsonl import JsonlSink
from monitor.emit.notification_event import notification_event
from monitor.emit.outbox import MemoryOutbox, Outbox
from monitor.emit.redis_stream import RedisStreamSink
from monitor.emit.sink import Sink, SinkError
from monitor.emit.spool import SpoolOutbox

__all__ = [
    "Delivery",
    "DeliveryStats",
    "Event",
    "JsonlSink",
    "MemoryOutbox",
    "Outbox",
    "RedisStreamSink",
    "Sink",
    "SinkError",
    "SpoolOutbox",
    "alert_event",
    "leading_reading",
    "notification_event",
]
