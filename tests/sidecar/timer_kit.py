"""Timers of an event loop by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SECOND = 1_000_000_000


class Timers:
    """In the place of the event loop: `pass_seconds` moves the clock and calls what is due on the way."""

    def __init__(self) -> None:
        self.now = 0
        self.set: list[tuple[int, Callable[[], None], Timer]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        timer = Timer()
        self.set.append((self.now + round(seconds * SECOND), call, timer))
        return timer

    def pass_seconds(self, seconds: int) -> None:
        self.pass_nanos(seconds * SECOND)

    def pass_nanos(self, nanos: int) -> None:
        until = self.now + nanos
        while due := [entry for entry in self.live() if entry[0] <= until]:
            entry = min(due, key=lambda one: one[0])
            self.set.remove(entry)
            self.now = max(self.now, entry[0])
            entry[1]()
        self.now = until

    def live(self) -> list[tuple[int, Callable[[], None], Timer]]:
        return [entry for entry in self.set if not entry[2].cancelled]


class Timer:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
