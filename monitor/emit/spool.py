"""An outbox on disk: events outlive the process and are delivered at least once."""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path
from typing import BinaryIO

from monitor.emit.event import Event
from monitor.errors import FeaturewatchError

_log = logging.getLogger(__name__)


class SpoolOutbox:
    """Two files: `path` holds one event a line, `<path>.offset` the number of bytes that are delivered.

    An event is in the file before `put` returns and leaves it after `advance`; a crash in between repeats it, with the
    same event id. The offset may lag behind, never run ahead. When everything is delivered both files shrink to
    nothing. Writes are flushed to the system, not synced: they survive the process, not a power cut. A lock keeps a
    second process out.
    """

    def __init__(self, path: Path, max_bytes: int = 64 * 1024 * 1024) -> None:
        """Opens or creates the spool. A half-written last line of a crashed process is cut off.

        Raises:
            OSError: the files cannot be opened.
            FeaturewatchError: another process has the spool.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._offset_path = path.with_name(path.name + ".offset")
        self._max_bytes = max_bytes
        self._file = _open_locked(path)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        self._size = whole
        self._offset = min(self._stored_offset(), whole)
        self._count = data.count(b"\n", self._offset, whole)
        self._file.truncate(whole)

    def put(self, event: Event) -> bool:
        line = event.line.encode() + b"\n"
        if self._size - self._offset + len(line) > self._max_bytes:
            return False
        if self._size + len(line) > 2 * self._max_bytes:
            self._compact()
        self._file.seek(self._size)
        self._file.write(line)
        self._file.flush()
        self._size += len(line)
        self._count += 1
        return True

    def peek(self) -> Event | None:
        while self._offset < self._size:
            line = self._read_line()
            try:
                return Event.from_line(line.decode().rstrip("\n"))
            except ValueError as error:
                # Someone wrote into the spool: the line can never be delivered, so it must not block the others.
                _log.error("spool %s: passed over byte %d, which is no event: %s", self._path, self._offset, error)
                self._step_over(len(line))
        return None

    def advance(self) -> None:
        self._step_over(len(self._read_line()))

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        self._file.close()

    def _read_line(self) -> bytes:
        self._file.seek(self._offset)
        return self._file.readline()

    def _step_over(self, length: int) -> None:
        self._offset += length
        self._count -= 1
        if self._offset >= self._size:
            self._file.truncate(0)
            self._size = self._offset = self._count = 0
        self._store_offset()

    def _compact(self) -> None:
        self._file.seek(self._offset)
        rest = self._file.read(self._size - self._offset)
        # Offset first: a crash between the two steps repeats events instead of losing them.
        self._offset = 0
        self._store_offset()
        replacement = self._path.with_name(self._path.name + ".new")
        replacement.write_bytes(rest)
        file = _open_locked(replacement)
        replacement.replace(self._path)
        self._file.close()
        self._file, self._size = file, len(rest)

    def _stored_offset(self) -> int:
        try:
            return int(self._offset_path.read_text() or 0)
        except FileNotFoundError:
            return 0
        except ValueError:
            _log.warning("spool %s: unreadable offset file, everything in the spool is delivered again", self._path)
            return 0

    def _store_offset(self) -> None:
        self._offset_path.write_text(str(self._offset))


def _open_locked(path: Path) -> BinaryIO:
    path.touch()
    file = path.open("r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise FeaturewatchError(
            f"spool file {path}",
            "another process has it open, and events of two processes must not be mixed",
            "stop the other sidecar or give each its own --spool file",
        ) from error
    return file
