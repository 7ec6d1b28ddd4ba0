"""The thread that writes records to the store: what it survives, what it loses and counts."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable

import pytest
from audit_kit import record
from sqlalchemy.exc import OperationalError

from monitor.audit import AuditStore, AuditWriter
from monitor.v1.generations_pb2 import GenerationRecord
from monitor.v1.policies_pb2 import PolicyEvent


def lost_generations(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Generations that the log names with a lost record, in the order of their loss."""
    found = (re.search(r"record of generation (\S+) is lost", entry.getMessage()) for entry in caplog.records)
    return [match[1] for match in found if match]


def test_the_writer_survives_a_record_that_cannot_be_built(store: AuditStore, caplog: pytest.LogCaptureFixture) -> None:
    writer = AuditWriter(store)

    def broken() -> GenerationRecord:
        raise ZeroDivisionError

    writer.submit(lambda: record(1), "gen-001")
    writer.submit(broken, "gen-broken")
    writer.submit(lambda: record(2), "gen-002")
    assert writer.flush()
    assert (writer.written, writer.lost, store.count()) == (2, 1, 2)
    assert lost_generations(caplog) == ["gen-broken"]
    writer.close()


def test_the_writer_tries_again_while_the_store_is_locked(store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.audit.writer.PAUSE_SECONDS", 0.001)
    attempts = []

    def put(written: GenerationRecord) -> None:
        attempts.append(written)
        if len(attempts) < 3:
            raise OperationalError("insert", None, sqlite3.OperationalError("database is locked"))
        AuditStore.put(store, written)

    monkeypatch.setattr(store, "put", put)
    writer = AuditWriter(store)
    writer.submit(lambda: record(1), "gen-001")
    assert writer.flush()
    assert (len(attempts), writer.written, writer.lost) == (3, 1, 0)
    writer.close()


def test_a_full_writer_queue_loses_records_and_counts_them(store: AuditStore) -> None:
    gate = threading.Event()
    writer = AuditWriter(store, max_queued=1)

    def slow() -> GenerationRecord:
        gate.wait(30)
        return record(1)

    for number in range(4):
        writer.submit(slow, f"gen-{number}")
    gate.set()
    assert writer.flush()
    assert writer.lost in (2, 3), "one is being written, one waits"
    assert writer.written + writer.lost == 4
    writer.close()


class Gate:
    """A record that is built only when the gate opens; `entered` is set while it waits."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self) -> GenerationRecord:
        self.entered.set()
        assert self.open.wait(60)
        return record(900)


def test_what_is_not_written_at_the_end_counts_as_lost(store: AuditStore, caplog: pytest.LogCaptureFixture) -> None:
    gate, writer = Gate(), AuditWriter(store)
    writer.submit(gate, "gen-900")
    assert gate.entered.wait(60)
    writer.submit(lambda: record(1), "gen-001")
    writer.submit(lambda: record(2), "gen-002")
    writer.close(timeout_seconds=0.05)
    assert (writer.written, writer.lost) == (0, 3)
    assert lost_generations(caplog) == ["gen-900", "gen-001", "gen-002"]
    gate.open.set()
    writer._thread.join(60)
    assert writer.flush()
    writer.submit(lambda: record(3), "gen-003")
    assert (writer.written, writer.lost) == (0, 4), "a late arrival is not counted a second time"


def test_flush_waits_for_what_was_queued_before_it(store: AuditStore) -> None:
    first, second, writer = Gate(), Gate(), AuditWriter(store)
    writer.submit(first, "gen-900")
    assert first.entered.wait(60)
    flushed: list[bool] = []
    flushing = threading.Thread(target=lambda: flushed.append(writer.flush(timeout_seconds=60)))
    taken = threading.Event()
    wait_for = writer._changed.wait_for

    def noticed(predicate: Callable[[], object], timeout: float | None = None) -> object:
        taken.set()
        return wait_for(predicate, timeout)

    writer._changed.wait_for = noticed  # type: ignore[method-assign, assignment]
    flushing.start()
    assert taken.wait(60)
    writer.submit(second, "gen-901")
    first.open.set()
    flushing.join(60)
    assert flushed == [True], "the second record is not waited for"
    assert not second.open.is_set()
    assert writer.flush(timeout_seconds=0.01) is False
    second.open.set()
    assert writer.flush(timeout_seconds=60)
    writer.close()


def test_a_generation_waits_once_with_its_latest_record(store: AuditStore) -> None:
    gate, writer = Gate(), AuditWriter(store, max_queued=2)
    writer.submit(gate, "gen-900")
    assert gate.entered.wait(60)
    for nanos in range(1, 50):
        writer.submit(lambda nanos=nanos: record(1, end_unix_nanos=nanos), "gen-001")  # type: ignore[misc]
        writer.submit(lambda nanos=nanos: record(2, end_unix_nanos=nanos), "gen-002")  # type: ignore[misc]
    gate.open.set()
    assert writer.flush(timeout_seconds=60)
    assert (writer.written, writer.lost) == (3, 0)
    assert {found.generation_id: found.end_unix_nanos for found in store.page(10)} == {
        "gen-900": 0,
        "gen-001": 49,
        "gen-002": 49,
    }
    writer.close()


def test_changes_of_policies_find_room_in_a_full_queue(store: AuditStore) -> None:
    gate, writer = Gate(), AuditWriter(store, max_queued=1)
    writer.submit(gate, "gen-900")
    assert gate.entered.wait(60)
    writer.submit(lambda: record(1), "gen-001")
    writer.submit(lambda: record(2), "gen-002")
    off = PolicyEvent(event_id="off", time_unix_nanos=1, policy="loud", kind=PolicyEvent.KIND_MODE_SET)
    writer.submit_policy_events([off])
    gate.open.set()
    assert writer.flush(timeout_seconds=60)
    assert store.policy_events() == [off]
    assert (writer.written, writer.lost) == (3, 1), "records still have their bound"
    writer.close()
