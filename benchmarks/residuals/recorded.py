"""A flight recorder with one request in it, and its rows as messages for either transport."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from monitor.sae import HookPoint
from monitor.tap.record import Segment
from monitor.tap.recorder.captures import Captures
from monitor.tap.recorder.recorder import FlightRecorder, make_recorder
from monitor.tap.sites import Site
from monitor.tap.stats import TapStats
from monitor.v1 import tap_pb2

HANDLE = 1


def recorded(rows: int, width: int, dtype: torch.dtype, hook_points: int = 1, mib: int = 64) -> FlightRecorder:
    """A recorder that holds `rows` random rows of one request per hook point."""
    torch.manual_seed(0)
    fired = torch.zeros(1, dtype=torch.int64)
    sites = [Site(HookPoint(i), torch.randn(rows, width).to(dtype), fired, "", None) for i in range(hook_points)]
    recorder = make_recorder(sites, mib)
    assert recorder is not None
    assert recorder.rows >= rows
    recorder.settle(recorder.place(rows), rows, [Segment(HANDLE, 0, rows)], None)
    return recorder


def over_grpc(recorder: FlightRecorder) -> Iterator[tap_pb2.StreamRequest]:
    """What the tap sends for one capture."""
    captures = Captures(recorder, TapStats())
    captures.ask(HANDLE, tap_pb2.CaptureRows(capture_id=1))
    while captures.due(0.0) < math.inf:
        message = captures.message(0.0)
        if message is not None:
            yield message


def over_shared_memory(recorder: FlightRecorder, shared: memoryview) -> Iterator[tap_pb2.StreamRequest]:
    """The same rows copied into shared memory, and a message per run that says where. A prototype: it need not wait for
    room, so it shows the most that shared memory can gain."""
    target, offset, start = np.frombuffer(shared, np.uint8), 0, 0
    while (run := recorder.find(HANDLE, start, recorder.settled)) is not None:
        start = int(run.numbers_n[-1]) + 1
        for hook, hook_point in enumerate(recorder.hook_points):
            _, rows_nb = recorder.read(hook, run)
            target[offset : offset + rows_nb.nbytes] = rows_nb.reshape(-1)
            rows = tap_pb2.ResidualRows(
                capture_id=1,
                handle=HANDLE,
                hook_point=hook_point,
                first_position=offset,
                row_count=len(rows_nb),
                width=recorder.width,
                dtype=recorder.dtype,
            )
            offset += rows_nb.nbytes
            yield tap_pb2.StreamRequest(residual_rows=rows)
    yield tap_pb2.StreamRequest(residual_rows=tap_pb2.ResidualRows(capture_id=1, handle=HANDLE, last=True))
