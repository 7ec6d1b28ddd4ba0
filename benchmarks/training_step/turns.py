"""Trainers that are one long loop: each runs in a thread and waits in its data source until it is its turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count

from torch import Tensor

from training_step.world import World


class Over(BaseException):
    """Ends the loop from within its data source."""


class Turns:
    """A step is everything between two requests for a batch."""

    def __init__(self, world: World) -> None:
        self._world, self._numbers, self._over = world, count(), False
        self._go, self._asked = threading.Semaphore(0), threading.Semaphore(0)
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def run(self, loop: Callable[[], object]) -> None:
        """Starts the loop; returns when it asks for its first batch."""

        def guarded() -> None:
            try:
                loop()
            except Over:
                return
            except BaseException as failure:  # noqa: BLE001 - is raised again where the step is taken
                self._failure = failure
            self._asked.release()

        self._thread = threading.Thread(target=guarded, daemon=True)
        self._thread.start()
        self._wait()

    def batch(self) -> Tensor:
        """For the loop: the next batch, when it is its turn."""
        self._asked.release()
        self._go.acquire()
        if self._over:
            raise Over
        return self._world.batches[next(self._numbers) % len(self._world.batches)]

    def step(self) -> None:
        self._go.release()
        self._wait()

    def close(self) -> None:
        self._over = True
        self._go.release()
        if self._thread is not None:
            self._thread.join(60)

    def _wait(self) -> None:
        self._asked.acquire()
        if self._failure is not None:
            raise self._failure
