"""What a stream says to the sidecar, in which order: heartbeats and frames; captured rows when neither waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

from monitor.rpc import PROTOCOL_VERSION
from monitor.tap.frame import Frame
from monitor.tap.link import Link
from monitor.tap.record import TAP_ERROR
from monitor.tap.recorder.captures import Captures
from monitor.tap.wire import heartbeat, step_frame
from monitor.v1 import tap_pb2

HEARTBEAT_SECONDS: Final = 2.0
SUMMARY_SECONDS: Final = 30.0
"""The counters are logged this often while there is traffic."""


class Turn(Enum):
    """What is next, if it is no frame."""

    HEARTBEAT = auto()
    CAPTURE = auto()
    END = auto()


class Sender:
    """The requests of one stream. gRPC's thread pulls one at a time, and the next when that one has left, so that what
    is most urgent then goes next."""

    def __init__(self, link: Link, captures: Captures) -> None:
        self._link, self._captures = link, captures
        self._changed, self._outbox = link.changed, link.outbox
        self._closed = False
        self._finishing = False
        self._frames_from: float | None = None

    def frames_from(self, when: float) -> None:
        """The sidecar said Welcome: frames go from `when` on (monotonic clock). Called with the lock held."""
        self._frames_from = when
        self._changed.notify_all()

    def finish(self) -> None:
        """Frames that wait are sent, then a last heartbeat, and the stream is half-closed; the sidecar then ends it."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is said."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def requests(self) -> Iterator[tap_pb2.StreamRequest]:
        link = self._link
        yield tap_pb2.StreamRequest(
            hello=tap_pb2.Hello(
                protocol_version=PROTOCOL_VERSION,
                tap_id=link.tap_id,
                engine=link.engine,
                hook_points=link.hook_points,
                memory=link.memory,
                last_session_id=self._outbox.session,
            )
        )
        next_heartbeat = time.monotonic()
        while True:
            with self._changed:
                turn = self.next(next_heartbeat)
                if self._closed:
                    return
            if isinstance(turn, Frame):
                yield self._encode(turn)
            elif turn is Turn.CAPTURE:
                start = time.perf_counter_ns()
                message = self._captures.message(time.monotonic())
                link.stats.capture.add(time.perf_counter_ns() - start)
                if message is not None:
                    yield message
            elif turn is Turn.HEARTBEAT:
                next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
                link.log_summary(SUMMARY_SECONDS)
                yield heartbeat(link.stats, self._outbox)
            else:
                break
        yield heartbeat(link.stats, self._outbox)

    def next(self, next_heartbeat: float) -> Frame | Turn:
        """Waits for something to say and chooses the most urgent. Called with the lock held."""
        while not self._closed:
            now = time.monotonic()
            wake = now + HEARTBEAT_SECONDS
            if self._frames_from is not None:
                if now >= next_heartbeat:
                    return Turn.HEARTBEAT
                frame = self._outbox.take() if now >= self._frames_from else None
                if frame is not None:
                    return frame
                captured = self._captures.due(now)
                if captured <= now and not self._finishing:
                    return Turn.CAPTURE
                wake = min(next_heartbeat, captured, self._frames_from if now < self._frames_from else wake)
            if self._finishing:
                return Turn.END
            self._changed.wait(max(wake - now, 0.001))
        return Turn.END

    def _encode(self, frame: Frame) -> tap_pb2.StreamRequest:
        link = self._link
        start = time.perf_counter_ns()
        rows = None
        if frame.payload is not None:
            try:
                rows = frame.payload.read()
            except Exception as error:  # noqa: BLE001 -- whatever the device reports, the rows become a counted gap
                link.log.warn_about("payload", "a step's activations could not be read", exception=error)
                if link.recorder is not None:
                    link.recorder.forget(frame.segments)
                with self._changed:
                    link.stats.publisher_errors += 1
                    link.stats.silent_steps += 1
                    self._outbox.blank(frame, TAP_ERROR)
        message = step_frame(frame, rows)
        link.stats.frames += 1
        link.stats.publish.add(time.perf_counter_ns() - start)
        return message
