"""Reads rows that a tapped engine writes into a folder (format: `monitor.sae.row_log`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae.row_log import (
    FAILED,
    HEADER,
    TOKEN_IDS,
    RowLogHeader,
    RowRun,
    StepRecord,
    step_numbers,
    step_path,
)

_AGAIN = "harvest again; the activation cache keeps what was finished before"


class RecordedRun(NamedTuple):
    """Rows of consecutive positions of one request.

    Attributes:
        run: whose, and which positions.
        token_ids_n: int32 [n], what was fed in there.
        rows_nd: per hook point [n, d], in the engine's dtype.
    """

    run: RowRun
    token_ids_n: Tensor
    rows_nd: dict[str, Tensor]


class RowLogReader:
    """Reads each step once and removes its file.

    Raises:
        FeaturewatchError: nobody records into `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 0
        try:
            self.header = RowLogHeader.from_json((folder / HEADER).read_text())
        except (OSError, ValueError) as error:
            raise FeaturewatchError(
                f"recorded rows in {folder} ({error})",
                f"an engine whose tap has record_to set writes {HEADER} there when it has loaded the model",
                "install featurewatch where vLLM runs, and check the engine's log",
            ) from error

    def read(self) -> Iterator[RecordedRun]:
        """What was written since the last call.

        Raises:
            FeaturewatchError: the recording has ended, or a step is missing or damaged.
        """
        self.require_recording()
        last = max(step_numbers(self._folder), default=self._next - 1)
        for number in range(self._next, last + 1):
            path = step_path(self._folder, number)
            try:
                record, tensors = self._load(path)
            except (OSError, SafetensorError, ValueError) as error:
                raise FeaturewatchError(
                    f"recorded step {path} ({error})", "each step must be there, whole and once", _AGAIN
                ) from error
            path.unlink()
            self._next = number + 1
            yield from _runs(record, tensors)

    def require_recording(self) -> None:
        """Raises FeaturewatchError when the tap has ended the recording, and says why."""
        failed = self._folder / FAILED
        if failed.is_file():
            raise FeaturewatchError(
                f"recording into {self._folder} ended {failed.read_text().strip()}",
                "a harvest needs every row",
                f"remove the cause; then {_AGAIN}",
            )

    def _load(self, path: Path) -> tuple[StepRecord, dict[str, Tensor]]:
        with safe_open(path, framework="pt") as file:
            record = StepRecord.from_metadata(file.metadata())
            tensors = {name: file.get_tensor(name) for name in (TOKEN_IDS, *self.header.hook_points)}
        rows = sum(run.length for run in record.runs)
        dtype = getattr(torch, self.header.dtype)
        for name in self.header.hook_points:
            if tensors[name].shape != (rows, self.header.width) or tensors[name].dtype != dtype:
                held = f"{tensors[name].dtype} {list(tensors[name].shape)}"
                raise ValueError(f"{name} is {held}, expected {dtype} {[rows, self.header.width]}")
        if tensors[TOKEN_IDS].shape != (rows,):
            raise ValueError(f"{len(tensors[TOKEN_IDS])} token ids of {rows} rows")
        return record, tensors


def _runs(record: StepRecord, tensors: dict[str, Tensor]) -> Iterator[RecordedRun]:
    first = 0
    for run in record.runs:
        part = slice(first, first + run.length)
        rows = {name: tensor[part] for name, tensor in tensors.items() if name != TOKEN_IDS}
        yield RecordedRun(run, tensors[TOKEN_IDS][part], rows)
        first += run.length
