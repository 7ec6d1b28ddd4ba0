"""An outbox on disk: events outlive the process and are delivered at least once."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import BinaryIO, Final

from monitor.emit.event import Event
from monitor.emit.private_file import private, private_or_new
from monitor.errors import FeaturewatchError

_log = logging.getLogger(__name__)

_READ_BYTES: Final = 64 * 1024


class SpoolOutbox:
    """Two files: `path` holds one event a line, `<path>.offset` the number of bytes that are delivered.

    An event is in the file before `put` returns and leaves it after `advance`; a crash in between repeats it, with the
    same event id. The offset may lag behind, never run ahead. When everything is delivered the file is emptied and
    the offset is 0. When the file is cut off from outside, what is left of it is delivered. Writes go to the system and
    are not synced: they survive the process, not a power cut. A lock keeps a second process out.
    """

    def __init__(self, path: Path, max_bytes: int = 64 * 1024 * 1024) -> None:
        """Opens or creates the spool, for its owner only. A half-written last line of a crashed process is cut off.

        Raises FeaturewatchError: the files cannot be opened or another process has the spool.
        """
        self._path = path
        self._offset_path = path.with_name(path.name + ".offset")
        self._max_bytes = max_bytes
        # The oldest event may be another one than `peek` gave out.
        self._changed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_locked(path)
            self._load(self._stored_offset())
        except BlockingIOError as error:
            raise FeaturewatchError(
                f"spool file {path}",
                "another process has it open, and events of two processes must not be mixed",
                "stop the other sidecar or give each its own --spool file",
            ) from error
        except OSError as error:
            raise FeaturewatchError(
                f"spool file {path} ({error.strerror})",
                "it must be a file that this user may create and write, in a folder that takes a second one beside it",
                "name another file with --spool",
            ) from error

    def put(self, event: Event) -> bool:
        """Raises OSError: it is not kept."""
        self._notice_truncation()
        line = event.line.encode() + b"\n"
        if self._size - self._offset + len(line) > self._max_bytes:
            return False
        if self._size + len(line) > 2 * self._max_bytes:
            self._compact()
        written = os.pwrite(self._file.fileno(), line, self._size)
        if written != len(line):
            self._file.truncate(self._size)
            raise OSError(f"only {written} of {len(line)} bytes written to {self._path}")
        self._size += len(line)
        self._count += 1
        return True

    def peek(self) -> Event | None:
        self._notice_truncation()
        self._changed = False
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
        self._notice_truncation()
        if not self._changed and self._offset < self._size:
            self._step_over(len(self._read_line()))

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        self._file.close()

    def _load(self, offset: int) -> None:
        """Takes the file as it is, with `offset` bytes delivered.

        An offset that is no place between two lines is from another time: everything is delivered again, for an event
        may come twice but must not be lost.
        """
        data = self._read(0, os.fstat(self._file.fileno()).st_size)
        whole = data.rfind(b"\n") + 1
        if offset == whole:
            offset = whole = 0
        self._offset = offset if offset == 0 or data[:whole][offset - 1 : offset] == b"\n" else 0
        self._store_offset(self._offset)
        self._file.truncate(whole)
        self._size = whole
        self._count = data.count(b"\n", self._offset, whole)

    def _notice_truncation(self) -> None:
        if os.fstat(self._file.fileno()).st_size < self._size:
            waiting, self._changed = self._count, True
            self._load(self._offset)
            _log.error("spool %s was cut off from outside: %d waited, %d are left", self._path, waiting, self._count)

    def _read(self, start: int, length: int) -> bytes:
        parts = []
        while length > 0 and (part := os.pread(self._file.fileno(), length, start)):
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return b"".join(parts)

    def _read_line(self) -> bytes:
        """The line at the offset; never empty, or whoever steps over it would not get on."""
        line, start = b"", self._offset
        while start < self._size and (part := self._read(start, min(_READ_BYTES, self._size - start))):
            until = part.find(b"\n") + 1
            if until:
                return line + part[:until]
            line, start = line + part, start + len(part)
        if not line:
            raise OSError(f"nothing at byte {self._offset} of {self._path}")
        return line

    def _step_over(self, length: int) -> None:
        if self._offset + length >= self._size:
            # Offset first: the old one in front of new events would hide them after a crash.
            self._store_offset(0)
            self._file.truncate(0)
            self._size = self._offset = self._count = 0
            return
        self._offset += length
        self._count -= 1
        self._store_offset(self._offset)

    def _compact(self) -> None:
        rest = self._read(self._offset, self._size - self._offset)
        # Offset first: a crash between the two steps repeats events instead of losing them.
        self._store_offset(0)
        replacement = self._path.with_name(self._path.name + ".new")
        with open(replacement, "wb", opener=private) as file:
            file.write(rest)
        locked = _open_locked(replacement)
        replacement.replace(self._path)
        self._file.close()
        self._file, self._offset, self._size = locked, 0, len(rest)

    def _stored_offset(self) -> int:
        try:
            return int(self._offset_path.read_text() or 0)
        except FileNotFoundError:
            return 0
        except ValueError:
            _log.warning("spool %s: unreadable offset file, everything in the spool is delivered again", self._path)
            return 0

    def _store_offset(self, offset: int) -> None:
        with open(self._offset_path, "w", encoding="ascii", opener=private) as file:
            file.write(str(offset))


def _open_locked(path: Path) -> BinaryIO:
    """Raises BlockingIOError when another process has it."""
    # Unbuffered: after a failed write no bytes stay behind in memory, to be written some other time.
    file: BinaryIO = open(path, "r+b", buffering=0, opener=private_or_new)  # noqa: SIM115 - lives as long as the spool
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file
