"""The background client: one gRPC stream to the sidecar, reconnected for as long as the engine runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import grpc

from monitor.errors import FeaturewatchError
from monitor.rpc import CHANNEL_OPTIONS, PROTOCOL_VERSION, Target, WireFormatError
from monitor.tap.log import RateLimitedLog, logger
from monitor.tap.outbox import Frame, Outbox
from monitor.tap.plan import ActivePlan
from monitor.tap.record import TAP_ERROR, Step
from monitor.tap.stats import TapStats
from monitor.tap.wire import heartbeat, step_frame
from monitor.v1 import engine_pb2, tap_pb2, tap_pb2_grpc

HEARTBEAT_SECONDS: Final = 2.0
PLAN_PATIENCE_SECONDS: Final = 1.0
"""How long frames wait after Welcome for a watch plan; then they go without activations."""
BACKOFF_SECONDS: Final = (0.05, 1.0)
"""First and longest pause between two attempts to connect."""


class Publisher:
    """Sends what `offer` takes, in its own threads. `offer` never blocks on the network and never raises for it.

    Args:
        on_plan: called in the publisher's thread with each new plan, or None when the sidecar's plan cannot be served.
        prepare: brings a WatchPlan to the device; raises FeaturewatchError or WireFormatError.
    """

    def __init__(
        self,
        *,
        target: Target,
        tap_id: str,
        engine: engine_pb2.EngineInfo,
        hook_points: list[str],
        outbox: Outbox,
        stats: TapStats,
        prepare: Callable[[tap_pb2.WatchPlan], ActivePlan],
        on_plan: Callable[[ActivePlan | None], None],
    ) -> None:
        self._target, self._tap_id, self._engine, self._hook_points = target, tap_id, engine, hook_points
        self._outbox, self._stats, self._prepare, self._on_plan = outbox, stats, prepare, on_plan
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._log = RateLimitedLog()
        self._connection: _Connection | None = None
        self._thread = threading.Thread(target=self._run, name="featurewatch-publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def full(self) -> bool:
        """True when rows of the next step could not be kept (read without the lock: a hint)."""
        return self._outbox.full

    def offer(self, step: Step) -> None:
        with self._changed:
            self._outbox.offer(step)
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Sends what is waiting if the sidecar is there, for at most `timeout` seconds in all, and ends the threads."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while (
                self._connection is not None
                and not self._outbox.empty
                and (left := deadline - 0.3 - time.monotonic()) > 0
            ):
                self._changed.wait(left)
            self._closing.set()
            connection = self._connection
            self._changed.notify_all()
        if connection is not None:
            connection.finish()
        self._thread.join(max(deadline - time.monotonic(), 0.1))
        if connection is not None and self._thread.is_alive():
            connection.cancel()

    def _run(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while not self._closing.is_set():
            connection = _Connection(self)
            try:
                welcomed = connection.run()
            except grpc.RpcError as error:
                welcomed = connection.welcomed
                details = _describe(error)
                if not self._closing.is_set():
                    self._log.warning("connection", f"no sidecar at {self._target} ({details}); trying again")
            except Exception as error:  # noqa: BLE001 -- the publisher must outlive any fault of one connection
                welcomed = connection.welcomed
                self._stats.publisher_errors += 1
                self._log.warning("publisher", f"connection to {self._target} failed", exception=error)
            finally:
                connection.close()
            pause = BACKOFF_SECONDS[0] if welcomed else min(pause * 2, BACKOFF_SECONDS[1])
            self._closing.wait(pause)


def _describe(error: grpc.RpcError) -> str:
    """What ended the call; what a stream raises also has the methods of a call."""
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    return f"{code().name}: {details()}" if code is not None and details is not None else repr(error)


class _Connection:
    """One stream. Its requests are pulled by gRPC's thread, its responses read by the publisher's."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._changed = publisher._changed
        self._outbox = publisher._outbox
        self._closed = False
        self._finishing = False
        self._may_send_from: float | None = None
        self._call: grpc.Call | None = None
        self.welcomed = False

    def run(self) -> bool:
        """Talks until the stream ends; returns whether the sidecar had welcomed the tap."""
        publisher = self._publisher
        with grpc.insecure_channel(publisher._target.grpc, options=CHANNEL_OPTIONS) as channel:
            responses = tap_pb2_grpc.TapServiceStub(channel).Stream(self._requests())
            with self._changed:
                self._call = responses
                self._finishing = publisher._closing.is_set()
                publisher._connection = self
            for response in responses:
                self._handle(response)
        return self.welcomed

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
            self._publisher._connection = None
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
        publisher = self._publisher
        for line in welcome.unserved:
            logger.warning("featurewatch: the sidecar cannot serve a policy here: %s", line)
        with self._changed:
            known = self._outbox.session == welcome.session_id
            self._outbox.connect(welcome.session_id, welcome.last_seq, welcome.credits)
            self._may_send_from = time.monotonic() + (0.0 if known else PLAN_PATIENCE_SECONDS)
            self._changed.notify_all()
        self.welcomed = True
        publisher._stats.connections += 1
        logger.info(
            "featurewatch: connected to the sidecar at %s (version %s, %s session)",
            publisher._target,
            welcome.sidecar_version or "unknown",
            "same" if known else "new",
        )

    def _watch_plan(self, message: tap_pb2.WatchPlan) -> None:
        publisher = self._publisher
        try:
            plan: ActivePlan | None = publisher._prepare(message)
        except (FeaturewatchError, WireFormatError) as error:
            publisher._stats.publisher_errors += 1
            logger.error("featurewatch: watch plan %d refused: %s", message.version, error)
            plan = None
        publisher._on_plan(plan)
        with self._changed:
            if plan is not None:
                self._outbox.plan(plan.digest, plan.version)
            self._may_send_from = time.monotonic()
            self._changed.notify_all()
        if plan is not None:
            logger.info("featurewatch: watching %d directions (plan %d)", plan.directions, plan.version)

    def _requests(self) -> Iterator[tap_pb2.StreamRequest]:
        publisher = self._publisher
        yield tap_pb2.StreamRequest(
            hello=tap_pb2.Hello(
                protocol_version=PROTOCOL_VERSION,
                tap_id=publisher._tap_id,
                engine=publisher._engine,
                hook_points=publisher._hook_points,
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
            yield heartbeat(publisher._stats, self._outbox) if frame is None else self._encode(frame)
        yield heartbeat(publisher._stats, self._outbox)

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
        publisher = self._publisher
        start = time.perf_counter_ns()
        rows = None
        if frame.payload is not None:
            try:
                rows = frame.payload.read()
            except Exception as error:  # noqa: BLE001 -- whatever the device reports, the rows become a counted gap
                publisher._log.warning("payload", "a step's activations could not be read", exception=error)
                with self._changed:
                    publisher._stats.publisher_errors += 1
                    publisher._stats.silent_steps += 1
                    self._outbox.blank(frame, TAP_ERROR)
        message = step_frame(frame, rows)
        publisher._stats.frames += 1
        publisher._stats.publish.add(time.perf_counter_ns() - start)
        return message
