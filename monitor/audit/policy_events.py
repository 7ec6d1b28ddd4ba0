"""Changes of policies and their modes: a table of their own, which nothing that deletes generations touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from monitor.audit import schema
from monitor.v1.policies_pb2 import PolicyEvent


@dataclass(frozen=True)
class StoredPolicyEvents:
    """Events to be written together, in their order."""

    events: tuple[PolicyEvent, ...]


def keep_events(connection: sa.Connection, events: Sequence[PolicyEvent]) -> None:
    """Writes events; one that is there already stays as it is."""
    rows = [
        {
            "event_id": event.event_id,
            "time_unix_nanos": event.time_unix_nanos,
            "kind": PolicyEvent.Kind.Name(event.kind),
            "policy": event.policy,
            "new_revision": event.new_revision,
            "new_sha256": event.new_sha256,
            "actor": event.actor,
            "event": event.SerializeToString(),
        }
        for event in events
    ]
    if rows:
        connection.execute(insert(schema.policy_events).on_conflict_do_nothing(index_elements=["event_id"]), rows)


def find_events(connection: sa.Connection, policy: str, since_unix_nanos: int, limit: int) -> list[PolicyEvent]:
    """The newest `limit` events after a time, oldest first; of one policy, or of all where it is empty."""
    table = schema.policy_events
    # The store's integers are signed.
    since = min(since_unix_nanos, (1 << 63) - 1)
    query = sa.select(table.c.event).where(table.c.time_unix_nanos > since)
    if policy:
        query = query.where(table.c.policy == policy)
    rows = connection.execute(query.order_by(table.c.number.desc()).limit(limit)).all()
    return [PolicyEvent.FromString(row.event) for row in reversed(rows)]


def revision_texts(connection: sa.Connection) -> dict[tuple[str, int], str]:
    """SHA-256 of the text that was last in force under each policy's name and revision."""
    table = schema.policy_events
    query = sa.select(table.c.policy, table.c.new_revision, table.c.new_sha256)
    rows = connection.execute(query.where(table.c.new_sha256 != "").order_by(table.c.number))
    return {(row.policy, row.new_revision): row.new_sha256 for row in rows}
