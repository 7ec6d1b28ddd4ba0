"""What a destination of events must be able to do."""

from __future__ import annotations

from typing import Protocol

from monitor.emit.event import Event


class SinkError(Exception):
    """A delivery failed and is worth trying again."""


class Sink(Protocol):
    """A destination. `Delivery` calls it for one event at a time and repeats what failed."""

    @property
    def name(self) -> str:
        """For logs, e.g. ``jsonl:/var/log/alerts.jsonl``; without passwords."""
        ...

    async def deliver(self, event: Event) -> None:
        """Returns when the event has arrived; raises SinkError otherwise."""
        ...

    async def close(self) -> None:
        """Gives up what it holds; raises OSError when that cannot be done in order."""
        ...
