"""The background client: keeps a stream to the sidecar for as long as the engine runs."""

from __future__ import annotations

import threading
import time
from typing import Final

import grpc

from monitor.tap.connection import Connection
from monitor.tap.cores import allow_cores
from monitor.tap.link import Link
from monitor.tap.record import Step

BACKOFF_SECONDS: Final = (0.05, 1.0)
"""First and longest pause between two attempts to connect."""


class Publisher:
    """Sends what `offer` takes, in its own threads. `offer` never blocks on the network and never raises for it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="featurewatch-publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def full(self) -> bool:
        """True when rows of the next step could not be kept (read without the lock: a hint)."""
        return self._link.outbox.full

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def offer(self, step: Step) -> None:
        with self._link.changed:
            self._link.outbox.offer(step)
            self._link.changed.notify_all()

    def close(self, timeout: float) -> None:
        """Sends what is waiting if the sidecar is there, for at most `timeout` seconds in all, and ends the threads."""
        if self._thread.ident is None:
            # The engine ended before its KV cache was made.
            return
        link, deadline = self._link, time.monotonic() + timeout
        with link.changed:
            while (
                self._connection is not None
                and self._connection.welcomed
                and not link.outbox.empty
                and (left := deadline - 0.3 - time.monotonic()) > 0
            ):
                link.changed.wait(left)
            link.closing.set()
            connection = self._connection
            link.changed.notify_all()
        if connection is not None:
            connection.finish()
        self._thread.join(max(deadline - time.monotonic(), 0.1))
        if connection is not None and self._thread.is_alive():
            connection.cancel()
        link.log_summary()

    def _run(self) -> None:
        allow_cores(self._link.cores)
        link, pause = self._link, BACKOFF_SECONDS[0]
        while not link.closing.is_set():
            connection = self._connection = Connection(link)
            try:
                connection.run()
            except grpc.RpcError as error:
                if not link.closing.is_set():
                    details = _describe(error)
                    link.log.warn_about("connection", f"no sidecar at {link.target} ({details}); trying again")
            except Exception as error:  # noqa: BLE001 -- the publisher must outlive any fault of one connection
                link.stats.publisher_errors += 1
                link.log.warn_about("publisher", f"connection to {link.target} failed", exception=error)
            finally:
                self._connection = None
                connection.close()
            pause = BACKOFF_SECONDS[0] if connection.welcomed else min(pause * 2, BACKOFF_SECONDS[1])
            link.closing.wait(pause)


def _describe(error: grpc.RpcError) -> str:
    """What ended the call; what a stream raises also has the methods of a call."""
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    return f"{code().name}: {details()}" if code is not None and details is not None else repr(error)
