"""Sidecars in trouble: stopped, or too slow for the traffic."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.metrics import scrape

RUN_SECONDS, STOP_SECONDS = 0.01, 0.5


@contextmanager
def stalled(pid: int) -> Iterator[None]:
    """The process takes nothing at all."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def flooded(pid: int) -> Iterator[None]:
    """The process runs 2 % of the time, so more arrives than it takes, yet its stream never dies."""
    done = threading.Event()

    def toggle() -> None:
        while not done.is_set():
            os.kill(pid, signal.SIGSTOP)
            done.wait(STOP_SECONDS)
            os.kill(pid, signal.SIGCONT)
            done.wait(RUN_SECONDS)

    thread = threading.Thread(target=toggle, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        os.kill(pid, signal.SIGCONT)


def wait_until_quiet(metrics_port: int, say: Callable[[str], None], seconds: float = 60.0) -> None:
    """Waits until the sidecar has taken what waited for it: no frame comes and no request is live."""
    deadline, before = time.monotonic() + seconds, -1.0
    while time.monotonic() < deadline:
        found = scrape(metrics_port).values
        if found["featurewatch_live_requests"] == 0 and found["featurewatch_frames_total"] == before:
            return
        before = found["featurewatch_frames_total"]
        time.sleep(0.7)
    say(f"the sidecar was still busy after {seconds:.0f} s")
