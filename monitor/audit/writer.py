"""Writes records in one thread, so that neither judging nor the event loop waits for the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import DatabaseError

from monitor.audit.store import AuditStore
from monitor.v1.generations_pb2 import GenerationRecord

_log = logging.getLogger(__name__)

ATTEMPTS = 5
PAUSE_SECONDS = 0.2

BuildRecord = Callable[[], GenerationRecord]


@dataclass(frozen=True)
class _Pending:
    """`ticket` numbers what was queued; the queue is in the order of the tickets."""

    ticket: int
    build: BuildRecord


class AuditWriter:
    """A bounded queue in front of the store.

    What is queued is a function that builds the record: building is part of the work that is moved off the caller.
    A generation waits at most once, with its latest record, so that many firings of one cost one write and one copy.
    A record that cannot be written after `ATTEMPTS` tries, finds the queue full or is left over at the end is counted
    in `lost` and logged.
    """

    def __init__(self, store: AuditStore, max_queued: int = 1024) -> None:
        self._store = store
        self._max_queued = max_queued
        self._pending: dict[str | int, _Pending] = {}
        self._writing = False
        self._last_ticket = self._done_ticket = 0
        self._closing = self._abandoned = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self.written = 0
        self.lost = 0
        self._thread.start()

    def submit(self, build: BuildRecord, generation_id: str | None = None) -> None:
        """Queues a record in the place of the one of the same generation that still waits; never waits itself."""
        with self._changed:
            if self._closing:
                self._lose(1, "submitted after the end")
                return
            earlier = None if generation_id is None else self._pending.get(generation_id)
            if earlier is not None and generation_id is not None:
                self._pending[generation_id] = _Pending(earlier.ticket, build)
                return
            if len(self._pending) >= self._max_queued:
                self._lose(1, "queue full")
                return
            self._last_ticket += 1
            key = self._last_ticket if generation_id is None else generation_id
            self._pending[key] = _Pending(self._last_ticket, build)
            self._changed.notify_all()

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
            left = len(self._pending) + self._writing
            if left:
                # The record in the thread's hands may still arrive, but nobody waits for it.
                self._abandoned = True
                self._pending.clear()
                self._done_ticket = self._last_ticket
                self._changed.notify_all()
                self._lose(left, "not written in time at the end")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                pending = self._pending.pop(next(iter(self._pending)))
                self._writing = True
            written = False
            try:
                self._write(pending.build())
                written = True
            except Exception:  # noqa: BLE001
                # This thread must live as long as the process: whatever fails on one record is counted and logged with
                # its traceback, and the next record is written.
                _log.exception("audit store %s: a record could not be written", self._store.path)
            finally:
                self._finish(pending, written=written)

    def _finish(self, pending: _Pending, *, written: bool) -> None:
        with self._changed:
            self._writing = False
            self._done_ticket = max(self._done_ticket, pending.ticket)
            self._changed.notify_all()
            if self._abandoned:
                # `close` has counted it.
                return
            if written:
                self.written += 1
            else:
                self._lose(1, "not written")

    def _lose(self, count: int, why: str) -> None:
        self.lost += count
        _log.error("audit store %s: %d records lost, %s (%d so far)", self._store.path, count, why, self.lost)

    def _write(self, record: GenerationRecord) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._store.put(record)
            except DatabaseError as error:
                if attempt == ATTEMPTS:
                    raise
                _log.warning("audit store %s: attempt %d failed: %s", self._store.path, attempt, error.orig)
                time.sleep(PAUSE_SECONDS * attempt)
            else:
                return
