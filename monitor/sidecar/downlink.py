"""What goes down one tap's stream after the first plan, written by one task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from monitor.v1.tap_pb2 import Ack, Directive, StreamResponse, WatchPlan

# Directives that wait for a tap that does not read.
MOST_WAITING: Final = 1024

Write = Callable[[StreamResponse], Awaitable[None]]


class Downlink:
    """Takes plans, directives and acknowledgements at any time; `run` writes them, plans first, then directives.

    gRPC permits one writer a stream, and judging must not wait for a tap that does not read: of acknowledgements and of
    plans only the latest waits, of directives `MOST_WAITING`.

    Attributes:
        watched: version of the latest plan that this stream was or is about to be told.
    """

    def __init__(self, watched: int = 0) -> None:
        self.watched = watched
        self._plan: WatchPlan | None = None
        # Of the latest plan that was queued, or sent before.
        self._version = watched
        self._directives: deque[Directive] = deque()
        self._ack = 0
        self._ack_due = False
        self._closed = False
        self._changed = asyncio.Event()

    def direct(self, directive: Directive) -> bool:
        """Queues a directive; False when the stream has ended or too many wait."""
        if self._closed or len(self._directives) >= MOST_WAITING:
            return False
        self._directives.append(directive)
        self._changed.set()
        return True

    def watch(self, plan: WatchPlan) -> None:
        """Queues a plan in the place of an earlier one that still waits; one that comes too late is passed over."""
        if plan.version > self._version:
            self._plan, self._version = plan, plan.version
            self._changed.set()

    def acknowledge(self, seq: int) -> None:
        """All frames up to `seq` are judged."""
        self._ack = max(self._ack, seq)
        self._ack_due = True
        self._changed.set()

    def close(self) -> None:
        """Lets `run` write what waits and then return; later directives are refused."""
        self._closed = True
        self._changed.set()

    async def run(self, write: Write) -> None:
        """Writes until `close`. Raises what `write` raises, and refuses directives from then on."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._plan is not None:
                    plan, self._plan = self._plan, None
                    await write(StreamResponse(watch_plan=plan))
                while self._directives:
                    await write(StreamResponse(directive=self._directives.popleft()))
                if self._ack_due:
                    self._ack_due = False
                    await write(StreamResponse(ack=Ack(seq=self._ack)))
                if self._closed and self._plan is None and not self._directives and not self._ack_due:
                    return
        finally:
            self._closed = True
