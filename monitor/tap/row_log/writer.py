"""Writes steps into the folder. What cannot be written whole is not written at all, nor anything behind it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NoReturn

import torch
from safetensors.torch import save

from monitor.errors import FeaturewatchError
from monitor.sae.row_log import (
    FAILED,
    HEADER,
    TOKEN_IDS,
    RequestEnd,
    RowLogHeader,
    RowRun,
    StepRecord,
    step_path,
)
from monitor.tap.log import logger
from monitor.tap.record import HostRows, Step
from monitor.tap.row_log.config import RowLogConfig
from monitor.v1 import tap_pb2


class RowLogError(RuntimeError):
    """Rows that should be in the folder are not, and nothing more will be."""


def claim_folder(config: RowLogConfig) -> None:
    """Makes the folder, or sees that nothing is in it. Its rows tell what was said: nobody else may read them.

    Raises:
        FeaturewatchError: it cannot be made or written, or something is in it.
    """
    folder = config.record_to
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = next(iter(sorted(folder.iterdir())), None)
    except OSError as error:
        raise FeaturewatchError(
            f"record_to {folder} ({error.strerror})", "it must be a folder that may be made and written", "name another"
        ) from error
    if found is not None:
        raise FeaturewatchError(
            f"record_to {folder}, which holds {found.name}",
            "each engine that records needs an empty folder",
            "name another, or remove what is in it",
        )


class RowLogWriter:
    """The tap's sink; see `monitor.tap.tap.Sink`. Used by the engine's thread, which waits for the disk.

    The first failure ends the recording: ``failed.txt`` says why, if it can be written at all, and no step follows. The
    engine goes on; who reads finds rows missing.

    Args:
        config: where to, and how much.
        header: written first.

    Raises:
        OSError: the header cannot be written.
    """

    full = False

    def __init__(self, config: RowLogConfig, header: RowLogHeader) -> None:
        self._folder, self._most = config.record_to, config.record_mib << 20
        self._dtype: torch.dtype = getattr(torch, header.dtype)
        self._hook_points, self._width = header.hook_points, header.width
        # Internal and client's name of each live request.
        self._names: dict[int, tuple[str, str]] = {}
        self._number = 0
        self.failed = False
        _appear(self._folder / HEADER, header.to_json().encode())

    def offer(self, step: Step) -> None:
        """Raises RowLogError, once, when the step cannot be recorded whole; afterwards it does nothing."""
        if self.failed:
            return
        try:
            self._write(step)
        except Exception as error:
            self.fail(str(error) if isinstance(error, RowLogError) else f"{type(error).__name__}: {error}")
            raise

    def fail(self, reason: str) -> None:
        """Ends the recording."""
        if self.failed:
            return
        self.failed = True
        logger.error("featurewatch: recording into %s ended before step %d: %s", self._folder, self._number, reason)
        # On a full disk, or without the folder, this fails too; that rows are missing shows all the same.
        with contextlib.suppress(OSError):
            _appear(self._folder / FAILED, f"before step {self._number}: {reason}\n".encode())

    def _write(self, step: Step) -> None:
        self._names.update({begin.handle: (begin.request_id, begin.external_id) for begin in step.begins})
        for gap in step.gaps:
            self._lost(gap.handle, gap.first, gap.length, gap.reason)
        if step.payload is None:
            for segment in step.segments:
                self._lost(segment.handle, segment.first, segment.length, step.missing_because)
        record = StepRecord(
            runs=tuple(RowRun(*self._names[handle], first, length) for handle, first, length in step.segments),
            ends=tuple(RequestEnd(*self._names.pop(end.handle), end.positions) for end in step.ends),
        )
        if not record.runs and not record.ends:
            return
        rows = step.payload.read() if step.payload is not None and record.runs else None
        data = save(self._tensors(rows), record.to_metadata())
        unread = self._unread_bytes()
        if unread + len(data) > self._most:
            raise RowLogError(
                f"{unread:,} bytes of steps wait in the folder, and record_mib is {self._most >> 20}: read and remove "
                "them sooner, or raise record_mib"
            )
        _appear(step_path(self._folder, self._number), data)
        self._number += 1

    def _unread_bytes(self) -> int:
        unread = 0
        for entry in os.scandir(self._folder):
            # The reader may remove it at this moment.
            with contextlib.suppress(FileNotFoundError):
                unread += entry.stat().st_size
        return unread

    def _lost(self, handle: int, first: int, length: int, reason: int) -> NoReturn:
        name = tap_pb2.GapReason.Name(reason).removeprefix("GAP_REASON_")  # type: ignore[arg-type]
        raise RowLogError(f"request {self._names[handle][1]}: no rows of {length} positions from {first} on ({name})")

    def _tensors(self, rows: HostRows | None) -> dict[str, torch.Tensor]:
        if rows is None:
            nothing = torch.empty(0, self._width, dtype=self._dtype)
            return {TOKEN_IDS: torch.empty(0, dtype=torch.int32), **dict.fromkeys(self._hook_points, nothing)}
        tensors = {name: torch.from_numpy(rows_nb).view(self._dtype) for name, rows_nb in rows.activations}
        return {TOKEN_IDS: torch.from_numpy(rows.token_ids_n), **tensors}


def _appear(path: Path, data: bytes) -> None:
    """The file is there whole or not at all. It is not brought to the disk: rows do not outlive the host's memory."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError:
        # Half a file would fill a full disk further.
        with contextlib.suppress(OSError):
            part.unlink()
        raise
