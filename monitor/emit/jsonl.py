"""A file with one event a line."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import BinaryIO

from monitor.emit.event import Event
from monitor.emit.sink import SinkError


class JsonlSink:
    """Appends events to a file and flushes each line.

    The file is opened again when its inode changes, so `logrotate` may move it away at any time. Written in a thread:
    a slow disk does not hold up the event loop.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    @property
    def name(self) -> str:
        return f"jsonl:{self._path}"

    async def deliver(self, event: Event) -> None:
        try:
            await asyncio.to_thread(self._append, event.line.encode() + b"\n")
        except OSError as error:
            self._drop_file()
            raise SinkError(str(error)) from error

    async def close(self) -> None:
        self._drop_file()

    def _append(self, line: bytes) -> None:
        file = self._current_file()
        # Unbuffered: one write call per line, so that two writers never share a line.
        written = file.write(line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes written to {self._path}")

    def _current_file(self) -> BinaryIO:
        if self._file is not None and not self._is_current(self._file):
            self._drop_file()
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
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
