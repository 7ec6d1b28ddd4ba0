"""Writes records in one thread, so that neither judging nor the event loop waits for the disk."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import DatabaseError

from monitor.audit.store import AuditStore
from monitor.v1.generations_pb2 import GenerationRecord

_log = logging.getLogger(__name__)

ATTEMPTS = 5
PAUSE_SECONDS = 0.2

BuildRecord = Callable[[], GenerationRecord]


class AuditWriter:
    """A bounded queue in front of the store.

    What is queued is a function that builds the record: building is part of the work that is moved off the caller.
    A record that cannot be written after `ATTEMPTS` tries, or finds the queue full, is counted in `lost` and logged.
    """

    def __init__(self, store: AuditStore, max_queued: int = 1024) -> None:
        self._store = store
        self._queue: queue.Queue[BuildRecord | None] = queue.Queue(max_queued)
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self.written = 0
        self.lost = 0
        self._thread.start()

    def submit(self, build: BuildRecord) -> None:
        """Queues a record; never waits."""
        try:
            self._queue.put_nowait(build)
        except queue.Full:
            self.lost += 1
            _log.error("audit store %s: queue full, record lost (%d so far)", self._store.path, self.lost)

    def flush(self, timeout_seconds: float = 5.0) -> bool:
        """Waits until everything queued so far is written or given up; False after `timeout_seconds`."""
        deadline = time.monotonic() + timeout_seconds
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self._queue.unfinished_tasks

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Writes what is queued, then ends the thread."""
        try:
            self._queue.put(None, timeout=timeout_seconds)
        except queue.Full:
            _log.error("audit store %s: %d records not written at the end", self._store.path, self._queue.qsize())
            return
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (build := self._queue.get()) is not None:
            try:
                self._write(build())
            except Exception:  # noqa: BLE001
                # This thread must live as long as the process: whatever fails on one record is counted and logged with
                # its traceback, and the next record is written.
                self.lost += 1
                _log.exception("audit store %s: record lost (%d so far)", self._store.path, self.lost)
            finally:
                self._queue.task_done()
        self._queue.task_done()

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
                self.written += 1
                return
