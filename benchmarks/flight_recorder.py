"""What the flight recorder costs a step of the engine, alone and while a capture is read.

    python benchmarks/flight_recorder.py [--steps 2000] [--mib 64]

Each step does what the tap does in the engine's thread behind a forward pass: copy the rows of two hook points into the
ring and say whose they are. "Captured" runs the same steps while one capture after the other is read and sent to
another process, as if the sidecar asked for rows all the time. Rows and steps are made up; no engine runs.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from residuals.recorded import HANDLE, over_grpc
from residuals.stream import Stream, open_stream

from monitor.sae import HookPoint
from monitor.tap.record import Segment, Step
from monitor.tap.recorder.recorder import FlightRecorder, make_recorder
from monitor.tap.recorder.recording import Recording
from monitor.tap.sites import Site
from monitor.tap.stats import TapStats

SHAPES = [(576, torch.float32), (4096, torch.bfloat16)]
# Requests and rows of each: decoding, and one chunk of a prompt.
STEPS = [(16, 1), (1, 512)]
HOOK_POINTS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--mib", type=int, default=64)
    options = parser.parse_args()
    print(f"recorder_mib {options.mib}, {HOOK_POINTS} hook points, {options.steps} steps; microseconds a step")
    print(f"{'':44}{'median':>10}{'p99':>10}{'captured: median':>18}{'p99':>10}")
    for width, dtype in SHAPES:
        for requests, rows in STEPS:
            alone = _measure(width, dtype, requests, rows, options, captured=False)
            captured = _measure(width, dtype, requests, rows, options, captured=True)
            name = f"{requests:3} requests x {rows:3} rows x {width} {str(dtype).removeprefix('torch.')}"
            print(f"{name:44}{alone[0]:10.0f}{alone[1]:10.0f}{captured[0]:18.0f}{captured[1]:10.0f}")


def _measure(
    width: int, dtype: torch.dtype, requests: int, rows: int, options: argparse.Namespace, *, captured: bool
) -> tuple[float, float]:
    """Median and 99th percentile of a step, microseconds."""
    total = requests * rows
    fired = torch.zeros(1, dtype=torch.int64)
    sites = [Site(HookPoint(i), torch.randn(total, width).to(dtype), fired, "", None) for i in range(HOOK_POINTS)]
    recorder, stats = make_recorder(sites, options.mib), TapStats()
    assert recorder is not None
    recording = Recording(recorder, stats)
    micros = []
    with _captures(recorder) if captured else nullcontext():
        for step in range(options.steps):
            segments = [Segment(HANDLE + request, rows * step, rows) for request in range(requests)]
            start = time.perf_counter_ns()
            recording.settle(recording.place(total), total, Step(0, segments=segments), None)
            micros.append((time.perf_counter_ns() - start) / 1000)
            # The engine computes the next step, outside of the interpreter.
            time.sleep(0.002)
    assert stats.errors == 0
    return statistics.median(micros), statistics.quantiles(micros, n=100)[98]


@contextmanager
def _captures(recorder: FlightRecorder) -> Iterator[None]:
    """Until the block ends, one capture after the other goes to another process."""
    ended = threading.Event()

    def capture(stream: Stream) -> None:
        while not ended.is_set():
            stream.send(over_grpc(recorder))

    with open_stream(1) as stream:
        thread = threading.Thread(target=capture, args=(stream,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


if __name__ == "__main__":
    main()
