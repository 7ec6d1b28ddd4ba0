"""A file with one event a line."""

from __future__ import annotations

import asyncio
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from monitor.emit.event import Event
from monitor.emit.private_file import private
from monitor.emit.sink import SinkError
from monitor.errors import FeaturewatchError


class JsonlSink:
    """Appends events to a file and flushes each line.

    The file is opened again when its inode changes, so `logrotate` may move it away at any time. Written in a thread
    of its own: a slow disk does not hold up the event loop, and other work in threads does not hold up alerts.
    """

    def __init__(self, path: Path) -> None:
        """Makes sure that the file can be opened; a new one appears with the first event, for its owner only.

        Raises FeaturewatchError: it cannot be opened.
        """
        self._path = path
        self._file: BinaryIO | None = None
        try:
            is_new = not path.exists()
            self._current_file()
            if is_new:
                self._drop_file()
                path.unlink()
        except OSError as error:
            raise FeaturewatchError(
                f"alerts file {path} ({error.strerror})",
                "it must be a file that this user may create and append to",
                "name another file with --alerts-jsonl",
            ) from error
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="alerts-jsonl")

    @property
    def name(self) -> str:
        return f"jsonl:{self._path}"

    async def deliver(self, event: Event) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._append, event.line.encode() + b"\n")
        except OSError as error:
            raise SinkError(str(error)) from error

    async def close(self) -> None:
        # Behind a write that is still going on; a disk that hangs holds up the end of the process, not the drain.
        self._thread.submit(self._drop_file)
        self._thread.shutdown(wait=False)

    def _append(self, line: bytes) -> None:
        try:
            file = self._current_file()
            # Unbuffered: one write call per line, so that two writers never share a line.
            written = file.write(line)
            if written != len(line):
                _take_back(file, written)
                raise OSError(f"only {written} of {len(line)} bytes written to {self._path}")
        except OSError:
            self._drop_file()
            raise

    def _current_file(self) -> BinaryIO:
        if self._file is not None and not self._is_current(self._file):
            self._drop_file()
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab", buffering=0, opener=private)  # noqa: SIM115 - Path.open has no opener
        return self._file

    def _is_current(self, file: BinaryIO) -> bool:
        try:
            on_disk = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(on_disk, os.fstat(file.fileno()))

    def _drop_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _take_back(file: BinaryIO, written: int) -> None:
    """Cuts a fragment off the end, lest the next try be appended to it. A pipe keeps it."""
    status = os.fstat(file.fileno())
    # In append mode the position after a write is the end of what was written: nobody has written behind it.
    if stat.S_ISREG(status.st_mode) and status.st_size == file.tell():
        file.truncate(status.st_size - written)
