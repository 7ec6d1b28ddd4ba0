"""Fans alerts out to watchers. Publishing never waits: a slow watcher loses its oldest alerts and is told how many."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from monitor.v1.alerts_pb2 import Alert, Mode, WatchAlertsRequest, WatchAlertsResponse

QUEUE_LENGTH = 256


class Watcher:
    """One watcher's bounded queue and filter."""

    def __init__(self, wanted: WatchAlertsRequest, queue_length: int = QUEUE_LENGTH) -> None:
        self._wanted = wanted
        self._queue: deque[Alert] = deque()
        self._queue_length = queue_length
        self._missed = 0
        self._ready = asyncio.Event()
        self._closed = False

    def offer(self, alert: Alert) -> None:
        wanted = self._wanted
        if wanted.policies and alert.policy not in wanted.policies:
            return
        if alert.severity < wanted.min_severity:
            return
        if alert.mode < Mode.MODE_ALERT and not wanted.include_shadow:
            return
        if len(self._queue) >= self._queue_length:
            self._queue.popleft()
            self._missed += 1
        self._queue.append(alert)
        self._ready.set()

    async def next(self) -> WatchAlertsResponse | None:
        """The next alert with the number of those lost before it; None when the hub was closed and all is read."""
        while not self._queue:
            if self._closed:
                return None
            self._ready.clear()
            await self._ready.wait()
        missed, self._missed = self._missed, 0
        return WatchAlertsResponse(alert=self._queue.popleft(), missed=missed)

    def close(self) -> None:
        self._closed = True
        self._ready.set()


class AlertHub:
    """All watchers. Used on the event loop only."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._closed = False

    @contextmanager
    def watch(self, wanted: WatchAlertsRequest) -> Iterator[Watcher]:
        watcher = Watcher(wanted)
        if self._closed:
            watcher.close()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def publish(self, alert: Alert) -> None:
        for watcher in self._watchers:
            watcher.offer(alert)

    def close(self) -> None:
        """Lets every watcher read what is queued and then end."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()
