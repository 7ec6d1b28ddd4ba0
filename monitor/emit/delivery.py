"""Moves events from an outbox to a sink, in order, again and again until they arrive."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

from monitor.emit.event import Event
from monitor.emit.outbox import Outbox
from monitor.emit.sink import Sink, SinkError

_log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class DeliveryStats:
    """Counters of one sink since the start: `dropped` events did not fit into the outbox or could not be kept there."""

    delivered: int = 0
    failed_attempts: int = 0
    dropped: int = 0
    pending: int = 0


class Delivery:
    """One sink with its outbox and the task that empties it.

    `offer` never waits. At least once, in order: an event leaves the outbox after the sink took it.
    """

    def __init__(self, sink: Sink, outbox: Outbox) -> None:
        self._sink = sink
        self._outbox = outbox
        self._stats = DeliveryStats()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._sink.name

    @property
    def stats(self) -> DeliveryStats:
        return replace(self._stats, pending=len(self._outbox))

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"deliver to {self.name}")
        self._wake.set()

    def offer(self, event: Event) -> None:
        """Queues an event; what the outbox cannot take is counted, logged and lost to this sink."""
        try:
            kept = self._outbox.put(event)
            reason = "its outbox is full"
        except OSError as error:
            kept, reason = False, str(error)
        if not kept:
            self._stats = replace(self._stats, dropped=self._stats.dropped + 1)
            _log.error("%s: event %s dropped: %s (%d so far)", self.name, event.event_id, reason, self._stats.dropped)
            return
        self._wake.set()

    async def close(self, patience_seconds: float = 2.0) -> None:
        """Delivers what is left for at most `patience_seconds`, then closes sink and outbox."""
        if self._task is not None:
            try:
                await asyncio.wait_for(self._drained(), patience_seconds)
            except TimeoutError:
                _log.warning("%s: %d events not delivered at the end", self.name, len(self._outbox))
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self._sink.close()
        except OSError as error:
            # It is given up anyway, and other sinks and the store wait to be closed.
            _log.warning("%s: not closed in order: %s", self.name, error)
        self._outbox.close()

    async def _drained(self) -> None:
        while len(self._outbox):
            await asyncio.sleep(0.01)

    async def _run(self) -> None:
        pause = 0.0
        while True:
            try:
                event = self._outbox.peek()
                if event is not None:
                    await self._sink.deliver(event)
                    self._outbox.advance()
            except Exception as error:  # noqa: BLE001
                # Also what no sink should raise: this task must live as long as the sidecar, or alerts pile up unsaid.
                self._stats = replace(self._stats, failed_attempts=self._stats.failed_attempts + 1)
                if pause == 0.0:
                    expected = isinstance(error, SinkError | OSError)
                    _log.error(
                        "%s: delivery failed, %d waiting: %s",
                        self.name,
                        len(self._outbox),
                        error,
                        exc_info=None if expected else error,
                    )
                pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause)
                continue
            if event is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._stats = replace(self._stats, delivered=self._stats.delivered + 1)
            if pause:
                _log.info("%s: delivering again, %d waiting", self.name, len(self._outbox))
                pause = 0.0
