"""Captures: what the sidecar asked the flight recorder for, as messages, each made when it can be sent."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from monitor.tap.log import RateLimitedLog
from monitor.tap.recorder.recorder import FlightRecorder, Run
from monitor.tap.stats import TapStats
from monitor.v1 import tap_pb2

MAX_CAPTURES: Final = 1024
"""Most captures of a connection at a time; what comes beyond is answered as if no row were there."""
FOLLOW_SECONDS: Final = 0.25
"""New rows of followed requests are collected for so long, unless the ring turns faster."""


@dataclass(slots=True)
class _Capture:
    capture_id: int
    handle: int
    follow: bool
    hooks: list[int]
    # Number of the next row to look at, and of the row to stop before unless it follows.
    start: int
    stop: int
    # The run that is being sent, one hook point after the other.
    run: Run | None = None
    hook: int = 0


class Captures:
    """The captures of one connection; they end with it. Rows are read one message at a time, so that a capture holds no
    rows while it waits. `ask` may be called by another thread than the rest."""

    def __init__(self, recorder: FlightRecorder | None, stats: TapStats) -> None:
        self._recorder, self._stats = recorder, stats
        self._log = RateLimitedLog()
        self._asked: deque[_Capture] = deque()
        # One after the other gets a message.
        self._active: deque[_Capture] = deque()
        # Nothing to send at the moment.
        self._following: list[_Capture] = []
        # When, and from which row on, the first of them looks again.
        self._next_look, self._looked_at = 0.0, 0
        # Answered with nothing: capture and handle. The oldest go unanswered when a flood outruns the stream.
        self._nothing: deque[tuple[int, int]] = deque(maxlen=4 * MAX_CAPTURES)

    def ask(self, handle: int, rows: tap_pb2.CaptureRows) -> None:
        """Takes a directive."""
        recorder = self._recorder
        self._stats.captures += 1
        hooks = [] if recorder is None else _chosen(recorder.hook_points, rows.hook_points)
        full = len(self._asked) + len(self._active) + len(self._following) >= MAX_CAPTURES
        if full:
            self._stats.captures_refused += 1
            self._log.warn_about("captures", f"more than {MAX_CAPTURES} captures at a time; some get no rows")
        if recorder is None or not hooks or full:
            self._nothing.append((rows.capture_id, handle))
            return
        self._asked.append(_Capture(rows.capture_id, handle, rows.follow, hooks, 0, recorder.settled))

    def due(self, now: float) -> float:
        """When `message` may next have something to say (monotonic clock); infinity when nothing is asked for."""
        if self._nothing or self._asked or self._active:
            return now
        if not self._following or self._recorder is None:
            return math.inf
        # Half of what may be overwritten next is left for the time that sending takes.
        hurry = self._recorder.settled - self._looked_at > self._recorder.rows // 2
        return now if hurry else self._next_look

    def message(self, now: float) -> tap_pb2.StreamRequest | None:
        """The next message, or None when there is nothing to say yet."""
        if self._nothing:
            return _closing(*self._nothing.popleft())
        recorder = self._recorder
        if recorder is None:
            return None
        while self._asked:
            self._active.append(self._asked.popleft())
        if self._following and self.due(now) <= now:
            for capture in self._following:
                capture.stop = recorder.settled
            self._active.extend(self._following)
            self._following = []
        while self._active:
            capture = self._active.popleft()
            # Whether it ended is asked first: what was settled until then is all there is.
            goes_on = capture.follow and recorder.live(capture.handle)
            if capture.follow and not goes_on:
                capture.stop = recorder.settled
            try:
                rows = self._rows(recorder, capture)
            except Exception as error:  # noqa: BLE001 -- whatever the device reports, the stream and its frames go on
                self._stats.publisher_errors += 1
                self._log.warn_about("recorder", "recorded rows could not be read", exception=error)
                return _closing(capture.capture_id, capture.handle)
            if rows is not None:
                self._active.append(capture)
                return tap_pb2.StreamRequest(residual_rows=rows)
            if not goes_on:
                return _closing(capture.capture_id, capture.handle)
            if not self._following:
                self._next_look, self._looked_at = now + FOLLOW_SECONDS, capture.stop
            self._following.append(capture)
        return None

    def _rows(self, recorder: FlightRecorder, capture: _Capture) -> tap_pb2.ResidualRows | None:
        """The next rows of a capture, one hook point after the other for each run; None when no more are there."""
        while True:
            if capture.run is None:
                capture.run = recorder.find(capture.handle, capture.start, capture.stop)
                if capture.run is None:
                    return None
                capture.start = int(capture.run.numbers_n[-1]) + 1
            run, hook = capture.run, capture.hooks[capture.hook]
            capture.hook = (capture.hook + 1) % len(capture.hooks)
            if capture.hook == 0:
                capture.run = None
            run, rows_nb = recorder.read(hook, run)
            if len(rows_nb):
                self._stats.captured_rows += len(rows_nb)
                return tap_pb2.ResidualRows(
                    capture_id=capture.capture_id,
                    handle=capture.handle,
                    hook_point=recorder.hook_points[hook],
                    first_position=run.first_position,
                    row_count=len(rows_nb),
                    width=recorder.width,
                    dtype=recorder.dtype,
                    values=rows_nb.tobytes(),
                )


def _chosen(recorded: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Indices of the hook points that are wanted; none named: all."""
    return [index for index, name in enumerate(recorded) if name in wanted or not wanted]


def _closing(capture_id: int, handle: int) -> tap_pb2.StreamRequest:
    return tap_pb2.StreamRequest(residual_rows=tap_pb2.ResidualRows(capture_id=capture_id, handle=handle, last=True))
