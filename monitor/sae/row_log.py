"""Residual rows on their way from an engine to a training on the same host: the format of the folder between them.

The tap writes it (`record_to`), a training reads it; neither imports the other::

    record.json                      what the rows are of, written before the first step
    step-000000000000.safetensors    one forward pass, appearing whole; the reader removes what it has read
    failed.txt                       why no more steps come although there should be more

A step file holds ``token_ids`` int32 [n] and for each hook point its rows [n, d] in the engine's dtype; whose they are
is in its metadata (`StepRecord`). Numbers of steps grow by one, so a file that is missing shows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

VERSION: Final = 1
HEADER: Final = "record.json"
FAILED: Final = "failed.txt"
TOKEN_IDS: Final = "token_ids"
_METADATA_KEY: Final = "featurewatch"


class RowRun(NamedTuple):
    """Rows of consecutive positions of one request.

    Attributes:
        request_id: the engine's, which no other request of the engine has.
        external_id: the one that the client knows.
        first: position of the first row.
        length: how many rows.
    """

    request_id: str
    external_id: str
    first: int
    length: int


class RequestEnd(NamedTuple):
    """No more rows of this request come; it had `positions` in all."""

    request_id: str
    external_id: str
    positions: int


@dataclass(frozen=True)
class StepRecord:
    """Whose the rows of one step file are.

    Attributes:
        runs: in the order of the rows.
        ends: requests that ended before the next step.
    """

    runs: tuple[RowRun, ...]
    ends: tuple[RequestEnd, ...] = ()

    def to_metadata(self) -> dict[str, str]:
        return {_METADATA_KEY: json.dumps({"runs": self.runs, "ends": self.ends})}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str] | None) -> StepRecord:
        """Raises ValueError for the metadata of anything else."""
        try:
            entries = json.loads((metadata or {})[_METADATA_KEY])
            runs = tuple(RowRun(*run) for run in entries["runs"])
            return cls(runs, tuple(RequestEnd(*end) for end in entries["ends"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"metadata of no step: {metadata}") from error


@dataclass(frozen=True)
class RowLogHeader:
    """What the rows are of.

    Attributes:
        hook_points: names of the tensors of a step file.
        width: d.
        dtype: of the rows: float32, float16 or bfloat16.
        engine: name, version, runner, device and what else rows depend on.
        version: of the format.
    """

    hook_points: tuple[str, ...]
    width: int
    dtype: str
    engine: dict[str, Any]
    version: int = VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RowLogHeader:
        """Raises ValueError for anything else, and for another version of the format."""
        try:
            entries = json.loads(text)
            header = cls(**{**entries, "hook_points": tuple(entries["hook_points"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no header of recorded rows: {error}") from error
        if header.version != VERSION:
            raise ValueError(f"recorded rows of version {header.version}, expected {VERSION}")
        return header


def step_path(folder: Path, number: int) -> Path:
    """Where the step of this number is, or will be."""
    return folder / f"step-{number:012d}.safetensors"


def step_numbers(folder: Path) -> list[int]:
    """Of the steps that are there, ascending."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.safetensors"))
