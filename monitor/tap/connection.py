"""One stream to the sidecar, from Hello to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import grpc

from monitor.errors import FeaturewatchError
from monitor.rpc import CHANNEL_OPTIONS, PROTOCOL_VERSION, Target, WireFormatError
from monitor.tap.frame import Frame
from monitor.tap.log import RateLimitedLog, logger
from monitor.tap.outbox import Outbox
from monitor.tap.plan import ActivePlan
from monitor.tap.record import TAP_ERROR
from monitor.tap.stats import TapStats
from monitor.tap.wire import heartbeat, step_frame
from monitor.v1 import engine_pb2, tap_pb2, tap_pb2_grpc

HEARTBEAT_SECONDS: Final = 2.0
PLAN_PATIENCE_SECONDS: Final = 1.0
"""How long frames wait after Welcome for a watch plan; then they go without activations."""
SUMMARY_SECONDS: Final = 30.0
"""The counters are logged this often while there is traffic."""


@dataclass
class Link:
    """What outlives a connection: who talks to whom, about what, and the lock around it.

    Attributes:
        prepare: reads a WatchPlan; raises FeaturewatchError or WireFormatError.
        on_plan: called in the publisher's thread with each new plan, or None when the sidecar's plan cannot be served.
        changed: guards `outbox` and wakes whoever waits for it.
        closing: set when the engine stops.
    """

    target: Target
    tap_id: str
    engine: engine_pb2.EngineInfo
    hook_points: list[str]
    outbox: Outbox
    stats: TapStats
    prepare: Callable[[tap_pb2.WatchPlan], ActivePlan]
    on_plan: Callable[[ActivePlan | None], None]
    changed: threading.Condition = field(default_factory=threading.Condition)
    closing: threading.Event = field(default_factory=threading.Event)
    log: RateLimitedLog = field(default_factory=RateLimitedLog)
    _summarised: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))

    def log_summary(self, every_seconds: float = 0.0) -> None:
        """Logs the counters, if there were steps since the last time and that is `every_seconds` ago."""
        then, steps = self._summarised
        if self.stats.steps == steps or time.monotonic() - then < every_seconds:
            return
        self._summarised = (time.monotonic(), self.stats.steps)
        logger.info("featurewatch: %s", self.stats.summary())


class Connection:
    """One stream. Its requests are pulled by gRPC's thread, its responses read by the publisher's."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._changed = link.changed
        self._outbox = link.outbox
        self._closed = False
        self._finishing = False
        self._may_send_from: float | None = None
        self._call: grpc.Call | None = None
        self.welcomed = False

    def run(self) -> None:
        """Talks until the stream ends."""
        link = self._link
        with grpc.insecure_channel(link.target.grpc, options=CHANNEL_OPTIONS) as channel:
            responses = tap_pb2_grpc.TapServiceStub(channel).Stream(self._requests())
            with self._changed:
                self._call = responses
                self._finishing = self._finishing or link.closing.is_set()
            for response in responses:
                self._handle(response)

    def finish(self) -> None:
        """Half-closes the stream; the sidecar then ends it."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.cancel()

    def _handle(self, response: tap_pb2.StreamResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "ack":
            with self._changed:
                self._outbox.acknowledge(response.ack.seq)
                self._changed.notify_all()
        elif kind == "welcome":
            self._welcome(response.welcome)
        elif kind == "watch_plan":
            self._watch_plan(response.watch_plan)
        # Directives are reserved: this version of the tap intervenes in nothing.

    def _welcome(self, welcome: tap_pb2.Welcome) -> None:
        link = self._link
        for line in welcome.unserved:
            logger.warning("featurewatch: the sidecar cannot serve a policy here: %s", line)
        with self._changed:
            known = self._outbox.session == welcome.session_id
            self._outbox.connect(welcome.session_id, welcome.last_seq, welcome.credits)
            self._may_send_from = time.monotonic() + (0.0 if known else PLAN_PATIENCE_SECONDS)
            self._changed.notify_all()
        self.welcomed = True
        link.stats.connections += 1
        logger.info(
            "featurewatch: connected to the sidecar at %s (version %s, %s session)",
            link.target,
            welcome.sidecar_version or "unknown",
            "same" if known else "new",
        )

    def _watch_plan(self, message: tap_pb2.WatchPlan) -> None:
        link = self._link
        try:
            plan: ActivePlan | None = link.prepare(message)
        except Exception as error:  # noqa: BLE001 -- whatever a plan holds, the stream goes on and its rows are NO_PLAN
            link.stats.publisher_errors += 1
            unforeseen = not isinstance(error, FeaturewatchError | WireFormatError)
            logger.error("featurewatch: watch plan %d refused: %s", message.version, error, exc_info=unforeseen)
            plan = None
        with self._changed:
            # Before the engine's thread can encode under it: the outbox drops rows of plans that it does not know.
            if plan is not None:
                self._outbox.plan(plan.digest, plan.version)
            self._may_send_from = time.monotonic()
            self._changed.notify_all()
        link.on_plan(plan)
        if plan is not None:
            logger.info("featurewatch: watching %d directions (plan %d)", plan.directions, plan.version)

    def _requests(self) -> Iterator[tap_pb2.StreamRequest]:
        link = self._link
        yield tap_pb2.StreamRequest(
            hello=tap_pb2.Hello(
                protocol_version=PROTOCOL_VERSION,
                tap_id=link.tap_id,
                engine=link.engine,
                hook_points=link.hook_points,
                last_session_id=self._outbox.session,
            )
        )
        next_heartbeat = time.monotonic()
        while True:
            with self._changed:
                frame = self._next(next_heartbeat)
                if self._closed:
                    return
                if frame is None and self._finishing:
                    break
                if frame is None:
                    next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
            if frame is None:
                link.log_summary(SUMMARY_SECONDS)
            yield heartbeat(link.stats, self._outbox) if frame is None else self._encode(frame)
        yield heartbeat(link.stats, self._outbox)

    def _next(self, next_heartbeat: float) -> Frame | None:
        """The next frame; None when a heartbeat is due or the stream shall end. Holds the lock."""
        while not self._closed:
            now = time.monotonic()
            welcomed = self._may_send_from is not None
            if welcomed and now >= next_heartbeat:
                return None
            ready_at = self._may_send_from if self._may_send_from is not None else now + HEARTBEAT_SECONDS
            if now >= ready_at:
                frame = self._outbox.take()
                if frame is not None:
                    return frame
                ready_at = next_heartbeat
            if self._finishing:
                return None
            self._changed.wait(max(min(ready_at, next_heartbeat if welcomed else ready_at) - now, 0.001))
        return None

    def _encode(self, frame: Frame) -> tap_pb2.StreamRequest:
        link = self._link
        start = time.perf_counter_ns()
        rows = None
        if frame.payload is not None:
            try:
                rows = frame.payload.read()
            except Exception as error:  # noqa: BLE001 -- whatever the device reports, the rows become a counted gap
                link.log.warn_about("payload", "a step's activations could not be read", exception=error)
                with self._changed:
                    link.stats.publisher_errors += 1
                    link.stats.silent_steps += 1
                    self._outbox.blank(frame, TAP_ERROR)
        message = step_frame(frame, rows)
        link.stats.frames += 1
        link.stats.publish.add(time.perf_counter_ns() - start)
        return message
