"""A sidecar for tests: speaks the tap's protocol, judges nothing and remembers everything."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

import grpc
import numpy as np
import numpy.typing as npt

from monitor.rpc import SERVER_OPTIONS, floats_from_bytes, floats_to_bytes, ints_from_bytes, residuals_from
from monitor.v1 import tap_pb2, tap_pb2_grpc


@dataclass
class RecordedRequest:
    """One request as one sidecar session saw it. Breaches of the protocol are raised where they happen."""

    begin: tap_pb2.RequestBegin
    next_position: int = 0
    token_ids: dict[int, int] = field(default_factory=dict)
    rows: dict[str, dict[int, npt.NDArray[np.float32]]] = field(default_factory=dict)
    gaps: list[tuple[int, int, int]] = field(default_factory=list)
    end: tap_pb2.RequestEnd | None = None

    @property
    def prompt(self) -> list[int]:
        return list(ints_from_bytes(self.begin.prompt_token_ids, "prompt").tolist())

    @property
    def observed(self) -> int:
        return len(self.token_ids)

    def gap_positions(self, reason: int) -> int:
        return sum(count for _, count, why in self.gaps if why == reason)

    def advance(self, first: int, count: int) -> None:
        assert self.end is None, f"{self.begin.request_id}: position {first} after its end"
        assert first == self.next_position, f"{self.begin.request_id}: {first} follows {self.next_position}"
        self.next_position += count

    def stack(self, hook_point: str) -> tuple[list[int], npt.NDArray[np.float32]]:
        """Observed positions, ascending, and their activations [n, K]."""
        positions = sorted(self.rows.get(hook_point, {}))
        return positions, np.stack([self.rows[hook_point][position] for position in positions])


@dataclass
class RecordedCapture:
    """What a tap sent for one capture."""

    handle: int
    messages: list[tap_pb2.ResidualRows] = field(default_factory=list)
    # By hook point and position.
    rows: dict[str, dict[int, npt.NDArray[np.float32]]] = field(default_factory=dict)
    done: bool = False

    def take(self, message: tap_pb2.ResidualRows) -> None:
        assert not self.done, "rows behind the last"
        assert message.handle == self.handle
        self.messages.append(message)
        self.done = message.last
        known = self.rows.setdefault(message.hook_point, {}) if message.row_count else {}
        for offset, row_d in enumerate(residuals_from(message) if message.row_count else ()):
            position = message.first_position + offset
            assert position > max(known, default=-1), f"position {position} comes late"
            known[position] = row_d


class RecordingSidecar(tap_pb2_grpc.TapServiceServicer):
    """Serves any number of taps on `target` until `stop`. One instance is one sidecar process with its own
    `session_id`.

    Args:
        plan: what the tap shall watch.
        acknowledge: called with each frame's seq; False withholds its acknowledgement.
    """

    def __init__(
        self,
        target: str,
        plan: tap_pb2.WatchPlan,
        acknowledge: Callable[[int], bool] = lambda seq: True,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.session_id = uuid.uuid4().hex
        self._target = target
        self.plan = plan
        self.hellos: list[tap_pb2.Hello] = []
        self.heartbeats: list[tap_pb2.Heartbeat] = []
        # By tap and handle.
        self.requests: dict[tuple[str, int], RecordedRequest] = {}
        self.breaches: list[str] = []
        self.frames = 0
        # By id; by tap.
        self.captures: dict[int, RecordedCapture] = {}
        self._streams: dict[str, Queue[tap_pb2.StreamResponse | None]] = {}
        self._last_seq: dict[str, int] = {}
        self._acknowledge = acknowledge
        self._changed = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=SERVER_OPTIONS)
        tap_pb2_grpc.add_TapServiceServicer_to_server(self, self._server)
        if credentials is None:
            self.port = self._server.add_insecure_port(target)
        else:
            self.port = self._server.add_secure_port(target, credentials)
        assert self.port, target
        self._server.start()

    def Stream(  # noqa: N802 -- gRPC's name
        self, request_iterator: Iterator[tap_pb2.StreamRequest], context: grpc.ServicerContext
    ) -> Iterator[tap_pb2.StreamResponse]:
        responses: Queue[tap_pb2.StreamResponse | None] = Queue()

        def read() -> None:
            try:
                self._read(request_iterator, responses)
            except Exception as error:  # noqa: BLE001 -- gRPC's iterator raises nothing narrower when a call ends
                if context.is_active():
                    self.breaches.append(repr(error))
            finally:
                responses.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (response := responses.get()) is not None:
            yield response

    def _read(self, requests: Iterator[tap_pb2.StreamRequest], responses: Queue[tap_pb2.StreamResponse | None]) -> None:
        tap = ""
        for request in requests:
            kind = request.WhichOneof("message")
            with self._changed:
                if kind == "hello":
                    tap = request.hello.tap_id
                    self.hellos.append(request.hello)
                    self._streams[tap] = responses
                elif kind == "heartbeat":
                    self.heartbeats.append(request.heartbeat)
                elif kind == "residual_rows":
                    self.captures[request.residual_rows.capture_id].take(request.residual_rows)
                else:
                    self._take(tap, request.step)
                self._changed.notify_all()
            if kind == "hello":
                welcome = tap_pb2.Welcome(
                    protocol_version=1,
                    session_id=self.session_id,
                    sidecar_version="recording",
                    last_seq=self._last_seq.get(tap, 0),
                )
                responses.put(tap_pb2.StreamResponse(welcome=welcome))
                responses.put(tap_pb2.StreamResponse(watch_plan=self.plan))
            elif kind == "step" and self._acknowledge(request.step.seq):
                responses.put(tap_pb2.StreamResponse(ack=tap_pb2.Ack(seq=request.step.seq)))

    def capture(
        self, handle: int, *, tap: str | None = None, follow: bool = False, hook_points: tuple[str, ...] = ()
    ) -> RecordedCapture:
        """Asks a tap (the only one, unless it is named) for a request's residual rows."""
        with self._changed:
            (responses,) = [stream for name, stream in self._streams.items() if tap in (None, name)]
            capture_id = len(self.captures) + 1
            recorded = self.captures[capture_id] = RecordedCapture(handle)
        rows = tap_pb2.CaptureRows(capture_id=capture_id, follow=follow, hook_points=hook_points)
        responses.put(tap_pb2.StreamResponse(directive=tap_pb2.Directive(handle=handle, capture=rows)))
        return recorded

    def stop(self) -> None:
        """At once, as a killed process would: streams break, nothing is said.

        gRPC removes a socket's file a moment after its server has ended; a successor that listens there already would
        lose it, so this waits for that moment.
        """
        self._server.stop(0).wait()
        path = Path(self._target.removeprefix("unix:"))
        deadline = time.monotonic() + 60
        while self._target.startswith("unix:") and path.exists():
            assert time.monotonic() < deadline, f"{path} stayed"
            time.sleep(0.01)

    def wait_for(self, condition: Callable[[RecordingSidecar], bool], what: str, seconds: float = 120.0) -> None:
        """Waits until `condition(self)`; raises with what was recorded when it does not come."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not condition(self):
                left = deadline - time.monotonic()
                assert left > 0, f"{what} did not come: {self.summary()}"
                self._changed.wait(left)

    def named(self, external_id: str) -> list[RecordedRequest]:
        """Requests with this external id, in the order of their internal ids."""
        found = [request for request in self.requests.values() if request.begin.external_id == external_id]
        return sorted(found, key=lambda request: request.begin.request_id)

    def forget(self) -> None:
        """Forgets all requests and breaches. Call it while the tap has nothing to say."""
        with self._changed:
            self.requests.clear()
            self.breaches.clear()

    def ended(self, external_ids: list[str]) -> bool:
        """True when each of them is known and everything under its name has ended."""
        return all(self.named(name) and all(request.end for request in self.named(name)) for name in external_ids)

    def summary(self) -> str:
        lines = [
            f"{request.begin.request_id}: {request.observed} observed, gaps {request.gaps}, end {request.end}"
            for request in self.requests.values()
        ]
        return "\n".join([f"{len(self.hellos)} hellos, {self.frames} frames, breaches {self.breaches}", *lines])

    def _take(self, tap: str, step: tap_pb2.StepFrame) -> None:
        self.frames += 1
        last_seq = self._last_seq.get(tap, 0)
        try:
            assert step.seq > last_seq, f"frame {step.seq} after {last_seq}"
            self._last_seq[tap] = step.seq
            self._apply(tap, step)
        except (AssertionError, KeyError) as error:
            self.breaches.append(repr(error))

    def _apply(self, tap: str, step: tap_pb2.StepFrame) -> None:
        for begin in step.begins:
            assert (tap, begin.handle) not in self.requests, f"handle {begin.handle} begins twice"
            self.requests[tap, begin.handle] = RecordedRequest(begin)
        for gap in step.gaps:
            request = self.requests[tap, gap.handle]
            request.advance(gap.first_position, gap.count)
            request.gaps.append((gap.first_position, gap.count, gap.reason))
        rows = sum(step.row_counts)
        if rows:
            assert step.plan_version == self.plan.version, f"plan {step.plan_version}"
            token_ids = ints_from_bytes(step.token_ids, "token_ids", rows)
            counts = {hook.hook_point: hook.count for hook in self.plan.hooks}
            activations = {
                values.hook_point: floats_from_bytes(values.values, (rows, counts[values.hook_point]), "activations")
                for values in step.activations
            }
            row = 0
            for handle, first, count in zip(step.handles, step.first_positions, step.row_counts, strict=True):
                request = self.requests[tap, handle]
                request.advance(first, count)
                for offset in range(count):
                    request.token_ids[first + offset] = int(token_ids[row + offset])
                    for hook_point, acts_nk in activations.items():
                        request.rows.setdefault(hook_point, {})[first + offset] = acts_nk[row + offset]
                row += count
        for end in step.ends:
            request = self.requests[tap, end.handle]
            assert end.positions == request.next_position, (
                f"{request.begin.request_id} ends at {end.positions}, reported {request.next_position}"
            )
            request.end = end


def identity_plan(hook_points: list[str], width: int, version: int = 1) -> tap_pb2.WatchPlan:
    """Directions that give the residual row itself back."""
    return tap_pb2.WatchPlan(
        version=version,
        hooks=[
            tap_pb2.HookPlan(
                hook_point=hook_point,
                width=width,
                count=width,
                weights=floats_to_bytes(np.eye(width)),
                biases=floats_to_bytes(np.zeros(width)),
                rules=[tap_pb2.DIRECTION_RULE_IDENTITY] * width,
                thresholds=floats_to_bytes(np.zeros(width)),
            )
            for hook_point in hook_points
        ],
    )
