"""Changes of policies in the audit store."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from monitor.audit import AuditStore, AuditWriter
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary
from monitor.v1.policies_pb2 import PolicyEvent

Kind = PolicyEvent.Kind


def event(number: int, policy: str = "loud", kind: Kind.ValueType = Kind.KIND_CHANGED, **more: object) -> PolicyEvent:
    fields = {"event_id": f"event-{number}", "time_unix_nanos": number, "actor": "ann", **more}
    return PolicyEvent(policy=policy, kind=kind, **fields)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> AuditStore:
    return AuditStore(tmp_path / "audit.sqlite")


def test_events_come_back_whole_oldest_first_and_are_chosen_by_policy_time_and_number(store: AuditStore) -> None:
    written = [event(number, ("loud", "quiet")[number % 2], reason=f"reason {number}") for number in range(1, 7)]
    store.add_policy_events(written[:4])
    store.add_policy_events(written[4:])
    assert store.policy_events() == written
    assert store.policy_events(limit=2) == written[-2:]
    assert store.policy_events(policy="loud") == [written[1], written[3], written[5]]
    assert store.policy_events(since_unix_nanos=4) == written[4:]
    assert store.policy_events(policy="nobody") == []
    # A clock that was set back does not change the order in which things happened.
    late = event(3, event_id="late")
    store.add_policy_events([late])
    assert store.policy_events() == [*written, late]
    assert store.policy_events(since_unix_nanos=2**64 - 1) == []


def test_an_event_that_is_written_twice_is_kept_once(store: AuditStore) -> None:
    store.add_policy_events([event(1), event(2)])
    store.add_policy_events([event(2), event(3)])
    assert [one.event_id for one in store.policy_events()] == ["event-1", "event-2", "event-3"]


def test_the_texts_of_revisions_are_known_over_restarts(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "audit.sqlite")
    store.add_policy_events(
        [
            event(1, kind=Kind.KIND_STARTED, new_revision=1, new_sha256="a"),
            event(2, old_revision=1, old_sha256="a", new_revision=2, new_sha256="b"),
            event(3, "quiet", Kind.KIND_REMOVED, old_revision=7, old_sha256="c"),
            event(4, kind=Kind.KIND_REFUSED, detail="bad"),
        ]
    )
    store.close()
    assert AuditStore(tmp_path / "audit.sqlite").revision_texts() == {("loud", 1): "a", ("loud", 2): "b"}


def test_a_store_of_the_version_before_has_no_events_to_read_and_takes_some(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    AuditStore(path).close()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE policy_events"))
        connection.execute(sa.text("UPDATE schema_version SET version = 2"))
    engine.dispose()
    before = AuditStore(path, read_only=True)
    assert (before.policy_events(), before.revision_texts()) == ([], {})
    before.close()
    store = AuditStore(path)
    store.add_policy_events([event(1)])
    assert store.policy_events() == [event(1)]


def test_the_writer_writes_events_in_their_turn_among_records(store: AuditStore) -> None:
    writer = AuditWriter(store)
    record = GenerationRecord(summary=GenerationSummary(generation_id="g"))
    for number in (1, 2):
        writer.submit_policy_events([event(number)])
        writer.submit(lambda: record, "g")
    writer.close(timeout_seconds=60)
    assert [one.event_id for one in store.policy_events()] == ["event-1", "event-2"]
    assert (store.count(), writer.lost) == (1, 0)


def test_events_that_cannot_be_written_are_counted_and_named(
    store: AuditStore, caplog: pytest.LogCaptureFixture
) -> None:
    writer = AuditWriter(store)
    writer.close()
    writer.submit_policy_events([event(1), event(2, "quiet"), event(3, "")])
    assert writer.lost == 1
    assert "the audit of changes of loud, quiet, policy files is lost: submitted after the end" in caplog.text
