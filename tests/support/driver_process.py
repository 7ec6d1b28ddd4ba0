"""A child process with vLLM in it that is told what to do in lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class EngineDied(AssertionError):  # noqa: N818 -- a test failure, not an error to handle
    """The engine's process ended, or the engine refused to start; the message holds the end of its log."""


class DriverProcess:
    """Runs a driver script of this folder. Use as a context manager: leaving it kills what is left of the process.

    Args:
        script: file name of the driver.
        log: file for everything that the child prints.
        environment: more environment variables.
    """

    def __init__(self, script: str, log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        folder = Path(__file__).parent
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEATUREWATCH_")}
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, str(folder / script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                env={
                    **inherited,
                    "VLLM_CPU_KVCACHE_SPACE": "1",
                    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                    "VLLM_NO_USAGE_STATS": "1",
                    "PYTHONPATH": os.pathsep.join([str(folder.parent), *sys.path[1:]]),
                    "TOKENIZERS_PARALLELISM": "false",
                    **(environment or {}),
                },
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next answer. Raises EngineDied when the process ends instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise EngineDied(self.log.read_text(errors="replace")[-6000:])
        message: dict[str, Any] = json.loads(line)
        return message

    def wait(self) -> None:
        self._process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """Ends what is left of the process and of those that it started."""
        if self.running:
            os.killpg(self._process.pid, 9)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # What a dead child never read.
                with suppress(BrokenPipeError):
                    pipe.close()
