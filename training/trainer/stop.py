"""A polite end: SIGTERM and Ctrl-C are noted, and the training stops after the step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):  # noqa: N818 – no error: the run was asked to stop
    """The training stopped on a signal, its state is saved.

    Args:
        number: of the signal.
        step: steps done of the SAE that was in training.
        steps: of its run.
    """

    def __init__(self, number: int, step: int, steps: int) -> None:
        super().__init__(number, step, steps)
        self.number, self.step, self.steps = number, step, steps


class StopRequest:
    """Which signal asked for an end; 0 for none."""

    def __init__(self) -> None:
        self.number = 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Notes the first SIGTERM or SIGINT; a second one ends the process as usual. Outside the main thread, where Python
    allows no handlers, it notes nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, _frame: FrameType | None) -> None:
        request.number = number
        for other in _SIGNALS:
            signal.signal(other, before[other])

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number in _SIGNALS:
            signal.signal(number, before[number])
