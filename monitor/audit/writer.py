"""Writes records in one thread, so that neither judging nor the event loop waits for the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.exc import DatabaseError

from monitor.audit.evidence import StoredEvidence
from monitor.audit.policy_events import StoredPolicyEvents
from monitor.audit.store import AuditStore
from monitor.v1.generations_pb2 import GenerationRecord
from monitor.v1.policies_pb2 import PolicyEvent

_log = logging.getLogger(__name__)

ATTEMPTS = 5
PAUSE_SECONDS = 0.2

BuildRecord = Callable[[], GenerationRecord]
_Item = GenerationRecord | StoredEvidence | StoredPolicyEvents


@dataclass(frozen=True)
class _Pending:
    """`ticket` numbers what was queued; the queue is in the order of the tickets. `what` names it in the log."""

    what: str
    ticket: int
    build: Callable[[], _Item]


class AuditWriter:
    """A bounded queue in front of the store.

    What is queued is a function that builds the record: building is part of the work that is moved off the caller.
    A generation waits at most once, with its latest record, so that many firings of one cost one write and one copy;
    its evidence waits beside it, each capture's in its turn.
    Changes of policies are few, and find room in a full queue too: a flood of records must not take them along.
    A record that cannot be written after `ATTEMPTS` tries, finds the queue full or is left over at the end is counted
    in `lost` and logged with its name.
    """

    def __init__(self, store: AuditStore, max_queued: int = 1024) -> None:
        self._store = store
        self._max_queued = max_queued
        self._pending: dict[str, _Pending] = {}
        self._writing: _Pending | None = None
        self._last_ticket = self._done_ticket = self._keys = 0
        self._closing = self._abandoned = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self.written = 0
        self.lost = 0
        self._thread.start()

    def submit(self, build: BuildRecord, generation_id: str) -> None:
        """Queues a record in the place of the one of the same generation that still waits; never waits itself."""
        self._submit(generation_id, f"the record of generation {generation_id}", build)

    def submit_evidence(self, stored: StoredEvidence) -> None:
        """Queues evidence of a generation; never waits itself."""
        self._submit(self._new_key(), f"evidence of generation {stored.generation_id}", lambda: stored)

    def submit_policy_events(self, events: Sequence[PolicyEvent]) -> None:
        """Queues changes of policies; never waits itself."""
        stored = StoredPolicyEvents(tuple(events))
        names = ", ".join(dict.fromkeys(event.policy or "policy files" for event in events))
        self._submit(self._new_key(), f"the audit of changes of {names}", lambda: stored, always=True)

    def _new_key(self) -> str:
        """Of what takes nothing else's place."""
        with self._changed:
            self._keys += 1
            return f"item {self._keys}"

    def flush(self, timeout_seconds: float = 5.0) -> bool:
        """Waits until everything queued before this call is written or given up; False after `timeout_seconds`."""
        with self._changed:
            ticket = self._last_ticket
            return self._changed.wait_for(lambda: self._done_ticket >= ticket, timeout_seconds)

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Writes what is queued, then ends the thread; what is not written after `timeout_seconds` counts as lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_seconds)
        with self._changed:
            left = [*([] if self._writing is None else [self._writing]), *self._pending.values()]
            if left:
                # The record in the thread's hands may still arrive, but nobody waits for it.
                self._abandoned = True
                self._pending.clear()
                self._done_ticket = self._last_ticket
                self._changed.notify_all()
            for pending in left:
                self._lose(pending.what, "not written in time at the end")

    def _submit(self, key: str, what: str, build: Callable[[], _Item], *, always: bool = False) -> None:
        with self._changed:
            earlier = self._pending.get(key)
            if self._closing:
                self._lose(what, "submitted after the end")
            elif earlier is not None:
                self._pending[key] = replace(earlier, build=build)
            elif not always and len(self._pending) >= self._max_queued:
                self._lose(what, "queue full")
            else:
                self._last_ticket += 1
                self._pending[key] = _Pending(what, self._last_ticket, build)
                self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                pending = self._pending.pop(next(iter(self._pending)))
                self._writing = pending
            written = False
            try:
                self._write(pending.build())
                written = True
            except Exception:  # noqa: BLE001
                # This thread must live as long as the process: whatever fails on one record is counted and logged with
                # its traceback, and the next record is written.
                _log.exception("audit store %s: %s", self._store.path, pending.what)
            finally:
                self._finish(pending, written=written)

    def _finish(self, pending: _Pending, *, written: bool) -> None:
        with self._changed:
            self._writing = None
            self._done_ticket = max(self._done_ticket, pending.ticket)
            self._changed.notify_all()
            if self._abandoned:
                # `close` has counted it.
                return
            if written:
                self.written += 1
            else:
                self._lose(pending.what, "not written")

    def _lose(self, what: str, why: str) -> None:
        self.lost += 1
        _log.error("audit store %s: %s is lost: %s (%d so far)", self._store.path, what, why, self.lost)

    def _write(self, item: _Item) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if isinstance(item, StoredEvidence):
                    self._store.add_evidence(item)
                elif isinstance(item, StoredPolicyEvents):
                    self._store.add_policy_events(item.events)
                else:
                    self._store.put(item)
            except DatabaseError as error:
                if attempt == ATTEMPTS:
                    raise
                _log.warning("audit store %s: attempt %d failed: %s", self._store.path, attempt, error.orig)
                time.sleep(PAUSE_SECONDS * attempt)
            else:
                return
