"""Child processes with a log, a condition to wait for, and a certain end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from monitor.errors import FeaturewatchError


class Child:
    """A process in its own group, so that everything it starts ends with it."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(command),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], seconds: float, while_waiting: Callable[[str], None]) -> None:
        """Returns when `ready()` is true.

        Raises:
            FeaturewatchError: the process ended or the time ran out; the end of its log is in the message.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if (code := self._process.poll()) is not None:
                raise self._failure(f"it ended with exit code {code} before it was ready")
            if time.monotonic() > deadline:
                raise self._failure(f"it was not ready within {seconds:.0f} s")
            while_waiting(self.last_line())
            time.sleep(0.25)

    def last_line(self) -> str:
        lines = self._tail()
        return lines[-1] if lines else ""

    def stop(self, seconds: float = 15) -> None:
        """SIGTERM to the group, SIGKILL to what is left after `seconds`."""
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                return

    def _tail(self, lines: int = 15) -> list[str]:
        text = self.log.read_bytes()[-8000:].decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()][-lines:]

    def _failure(self, rule: str) -> FeaturewatchError:
        tail = "\n  ".join(self._tail())
        return FeaturewatchError(f"{self.name}", f"{rule}; its log ends\n  {tail}\n", f"read the whole log: {self.log}")


@contextlib.contextmanager
def running(child: Child) -> Iterator[Child]:
    """Stops the child at the end of the block, however it ends."""
    try:
        yield child
    finally:
        child.stop()
