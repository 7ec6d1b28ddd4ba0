"""Where events wait for delivery. Always bounded; what does not fit is refused and counted by the caller."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from monitor.emit.event import Event


class Outbox(Protocol):
    """A bounded first-in, first-out store."""

    def put(self, event: Event) -> bool:
        """False when it is full: the event is not kept. Raises OSError."""
        ...

    def peek(self) -> Event | None:
        """The oldest event, which stays; None when empty."""
        ...

    def advance(self) -> None:
        """Forgets the oldest event: it has been delivered."""
        ...

    def __len__(self) -> int: ...

    def close(self) -> None: ...


class MemoryOutbox:
    """Keeps events in memory; they end with the process."""

    def __init__(self, max_events: int = 10_000) -> None:
        self._events: deque[Event] = deque()
        self._max_events = max_events

    def put(self, event: Event) -> bool:
        if len(self._events) >= self._max_events:
            return False
        self._events.append(event)
        return True

    def peek(self) -> Event | None:
        return self._events[0] if self._events else None

    def advance(self) -> None:
        self._events.popleft()

    def __len__(self) -> int:
        return len(self._events)

    def close(self) -> None:
        """Nothing to release."""
