"""Work on the book that keeps its order although some of it has to wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from monitor.tap.drafts import Drafts


class InOrder:
    """Does what it is given at once, unless something given earlier still waits to learn what became of its drafts.

    Used by the engine's thread only. Work that raises is done with; what comes behind it waits for the next call.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Drafts | None, Callable[[], None]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Callable[[], None], drafts: Drafts | None = None) -> None:
        """Queues `work`, to be done when `drafts` are known, and does what can be done."""
        self._waiting.append((drafts, work))
        self.settle()

    def settle(self, *, wait: bool = False) -> None:
        """Does what can be done; with `wait`, everything."""
        while self._waiting:
            drafts, work = self._waiting[0]
            if not (wait or drafts is None or drafts.known()):
                return
            self._waiting.popleft()
            work()
