"""One at a time: whatever reads or changes the state of requests takes turns here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


class Turns:
    """Work in a thread of its own, in the order in which it was asked for; short work at once where it is asked for.

    To hand a decode step's frame to another thread and back costs more than to judge it: 0.25 ms, and 4 ms where the
    kernel wakes the thread on a core that computes. So the event loop judges such frames itself while the thread has
    nothing to do.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="judge")
        self._turn = threading.Lock()
        # Asked for and not done; guarded, because several threads ask.
        self._count = threading.Lock()
        self._waiting = 0
        # Done in the thread, and whoever asked on the loop has not seen it yet; only the loop uses it.
        self._unseen = 0

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Runs `work` in its turn. From any thread; raises RuntimeError after `close`."""
        with self._count:
            self._waiting += 1
        try:
            return self._thread.submit(self._run, work)
        except RuntimeError:
            self._done()
            raise

    async def run(self, work: Callable[[], _T], *, short: bool = False) -> _T:
        """Runs `work` in its turn, from the event loop; short work at once, and on the loop, if it is its turn."""
        if short and not self._waiting and not self._unseen and self._turn.acquire(blocking=False):
            try:
                return work()
            finally:
                self._turn.release()
        # What comes later must not be done, and published, before an earlier answer has been taken.
        self._unseen += 1
        try:
            return await asyncio.wrap_future(self.submit(work))
        finally:
            self._unseen -= 1

    def close(self) -> None:
        """Waits for what was asked for; then nothing more is taken."""
        self._thread.shutdown()

    def _run(self, work: Callable[[], _T]) -> _T:
        try:
            with self._turn:
                return work()
        finally:
            self._done()

    def _done(self) -> None:
        with self._count:
            self._waiting -= 1
