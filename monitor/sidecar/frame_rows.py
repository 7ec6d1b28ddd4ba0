"""Reads the rows of a StepFrame and refuses what cannot be true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.rpc import WireFormatError, floats_from_bytes, ints_from_bytes
from monitor.v1.tap_pb2 import StepFrame


@dataclass(frozen=True)
class Segment:
    """Consecutive positions of one request; its rows begin at `row` of the frame."""

    handle: int
    first: int
    count: int
    row: int


@dataclass(frozen=True)
class HookColumns:
    """A hook point and the number of directions watched there."""

    hook_point: str
    count: int


def read_segments(frame: StepFrame) -> list[Segment]:
    """Which rows belong to whom; raises WireFormatError."""
    lengths = len(frame.handles), len(frame.first_positions), len(frame.row_counts)
    if len(set(lengths)) != 1:
        raise WireFormatError(f"handles, first_positions and row_counts have {lengths} entries, expected equal numbers")
    segments, row = [], 0
    for handle, first, count in zip(frame.handles, frame.first_positions, frame.row_counts, strict=True):
        segments.append(Segment(handle, first, count, row))
        row += count
    return segments


def read_token_ids(frame: StepFrame, num_rows: int) -> npt.NDArray[np.int32]:
    """Token ids [n]; raises WireFormatError."""
    return ints_from_bytes(frame.token_ids, "token_ids", num_rows)


def read_activations(frame: StepFrame, num_rows: int, hooks: Sequence[HookColumns]) -> npt.NDArray[np.float32]:
    """Activations [n, K], hook points side by side in the plan's order; raises WireFormatError."""
    values = {activations.hook_point: activations.values for activations in frame.activations}
    expected = [hook.hook_point for hook in hooks]
    if len(values) != len(frame.activations) or set(values) != set(expected):
        found = ", ".join(activations.hook_point for activations in frame.activations) or "none"
        raise WireFormatError(f"activations are of {found}, the watch plan has {', '.join(expected) or 'none'}")
    parts = [
        floats_from_bytes(values[hook.hook_point], (num_rows, hook.count), f"activations of {hook.hook_point}")
        for hook in hooks
    ]
    return np.concatenate(parts, axis=1) if parts else np.zeros((num_rows, 0), np.float32)
