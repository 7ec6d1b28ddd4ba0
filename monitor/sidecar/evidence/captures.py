"""All captures that run: their ids, their limits, and when each of them ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from monitor.rpc import WireFormatError
from monitor.sidecar.downlink import Downlink
from monitor.sidecar.evidence.capture import Capture, CaptureRefusedError, Outcome, Subject
from monitor.sidecar.judge import DEFAULT_MAX_POSITIONS, TapJudge
from monitor.v1.tap_pb2 import CaptureRows, Directive, Hello, ResidualRows

_log = logging.getLogger(__name__)

MOST_CAPTURES: Final = 64
# Rows that have arrived and were not taken yet, of all captures.
MOST_WAITING_BYTES: Final = 256 << 20
# How long a tap may be silent before a capture ends without it.
IDLE_SECONDS: Final = 10.0


class CaptureTap(Protocol):
    """What a capture needs of a tap."""

    @property
    def hello(self) -> Hello: ...
    @property
    def judge(self) -> TapJudge: ...
    @property
    def downlink(self) -> Downlink | None: ...


@dataclass(eq=False)
class _Running:
    capture: Capture
    tap: CaptureTap
    heard: float
    timer: asyncio.TimerHandle | None = None


class Captures:
    """Used on the event loop only; nothing here waits, and judging never waits for it.

    A capture ends when the tap has said `last` for all hook points, when the tap goes away, or when the tap has been
    silent for `idle_seconds`, for one that follows its request counted from the request's end on.

    Attributes:
        late: messages of captures that had ended before, for example because their reader went away.
    """

    def __init__(self, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._running: dict[int, _Running] = {}
        self._last_id = 0
        self._waiting_bytes = 0
        self.late = 0

    def __len__(self) -> int:
        return len(self._running)

    def start(self, tap: CaptureTap, subject: Subject, hook_points: Sequence[str], *, follow: bool) -> Capture:
        """Asks the tap. Raises CaptureRefusedError when it cannot be asked."""
        of = f"capture of generation {subject.generation_id}"
        if len(self._running) >= MOST_CAPTURES:
            raise CaptureRefusedError(
                "TOO_MANY_CAPTURES", of, f"{MOST_CAPTURES} captures run already", "try again when some have ended"
            )
        if not tap.hello.memory.recorder_rows:
            raise CaptureRefusedError(
                "RECORDER_OFF",
                of,
                f"tap {tap.hello.tap_id} has no flight recorder",
                "set recorder_mib above 0 in the tap's configuration and restart the engine",
            )
        engine = tap.hello.engine
        self._last_id += 1
        capture = Capture(
            self._last_id,
            subject,
            hook_points,
            follow=follow,
            width=engine.hidden_size,
            max_positions=engine.max_model_len or DEFAULT_MAX_POSITIONS,
            reserve=self._reserve,
        )
        order = CaptureRows(capture_id=capture.id, follow=follow, hook_points=hook_points)
        downlink = tap.downlink
        if downlink is None or not downlink.direct(Directive(handle=subject.handle, capture=order)):
            raise CaptureRefusedError(
                "TAP_AWAY", of, f"tap {tap.hello.tap_id} is not connected or takes nothing", "try again when it is"
            )
        running = _Running(capture, tap, heard=asyncio.get_running_loop().time())
        self._running[capture.id] = running
        if not (follow and subject.live):
            self._watch(running)
        return capture

    def take(self, tap: CaptureTap, rows: ResidualRows) -> None:
        """Takes what a tap sent; what cannot be true is counted among the tap's problems and left out."""
        running = self._running.get(rows.capture_id)
        if running is None and 0 < rows.capture_id <= self._last_id:
            self.late += 1
            return
        if running is None or running.tap is not tap:
            tap.judge.problems.note("residual rows of no capture", f"capture {rows.capture_id}")
            return
        running.heard = asyncio.get_running_loop().time()
        try:
            running.capture.take(rows)
        except WireFormatError as error:
            tap.judge.problems.note("residual rows refused", f"capture {rows.capture_id}: {error}")
        if running.capture.outcome is not None:
            self._forget(running)

    def request_ended(self, generation_id: str) -> None:
        """From now on silence ends the captures that follow this generation."""
        for running in self._running.values():
            if running.capture.subject.generation_id == generation_id and running.timer is None:
                running.heard = asyncio.get_running_loop().time()
                self._watch(running)

    def tap_gone(self, tap: CaptureTap) -> None:
        """Rows are not sent again after a reconnect: what has arrived is all."""
        for running in [*self._running.values()]:
            if running.tap is tap:
                self._end(running, Outcome.TAP_AWAY)

    def stop(self, capture: Capture) -> None:
        """Nobody reads this capture any more."""
        capture.discard()
        running = self._running.get(capture.id)
        if running is not None:
            self._forget(running)

    def close(self) -> None:
        """Ends all captures with what has arrived."""
        for running in [*self._running.values()]:
            self._end(running, Outcome.STOPPED)

    def _watch(self, running: _Running) -> None:
        loop = asyncio.get_running_loop()
        left = running.heard + self._idle_seconds - loop.time()
        if left > 0:
            running.timer = loop.call_later(left, self._watch, running)
        else:
            self._end(running, Outcome.TIMED_OUT)

    def _end(self, running: _Running, outcome: Outcome) -> None:
        running.capture.end(outcome)
        self._forget(running)
        subject = running.capture.subject
        _log.warning("capture %d of request %s: %s", running.capture.id, subject.request_id, outcome.value)

    def _forget(self, running: _Running) -> None:
        self._running.pop(running.capture.id, None)
        if running.timer is not None:
            running.timer.cancel()

    def _reserve(self, size: int) -> bool:
        if size > 0 and self._waiting_bytes + size > MOST_WAITING_BYTES:
            return False
        self._waiting_bytes += size
        return True
