"""The background client over a real gRPC stream: restarts, silence and slowness of the sidecar."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.certificates import Authority
from support.recording_sidecar import RecordedCapture, RecordingSidecar, identity_plan

from monitor.rpc import MAX_MESSAGE_BYTES, ClientTls, ServerTls, Target
from monitor.sae import HookPoint
from monitor.tap.link import Link
from monitor.tap.outbox import Outbox
from monitor.tap.plan import ActivePlan, prepare_plan
from monitor.tap.publisher import Publisher
from monitor.tap.record import QUEUE_FULL, SIDECAR_LOST, TAP_ERROR, Begin, End, HostRows, Segment, Step
from monitor.tap.recorder.recorder import FlightRecorder
from monitor.tap.recorder.ring import HostRing
from monitor.tap.sites import Site
from monitor.tap.stats import TapStats
from monitor.v1 import engine_pb2, tap_pb2

WIDTH = 4
HOOK_POINT = "resid_post.1"


class _Rows:
    def __init__(self, rows: int, *, broken: bool = False) -> None:
        self._rows, self._broken = rows, broken
        self.nbytes = 4 * rows * (1 + WIDTH)

    def read(self) -> HostRows:
        if self._broken:
            raise RuntimeError("the device is gone")
        return HostRows(np.arange(self._rows, dtype=np.int32), [(HOOK_POINT, np.ones((self._rows, WIDTH), np.float32))])


class Harness:
    """A publisher whose engine is the test."""

    def __init__(
        self, target: str, *, max_frames: int = 64, max_bytes: int = 1 << 20, tls: ClientTls | None = None
    ) -> None:
        self.target = target
        self.site = Site(HookPoint(1), torch.zeros(8, WIDTH), torch.zeros(1, dtype=torch.int64), "", None)
        self.plan: ActivePlan | None = None
        self._planned = threading.Condition()
        self.outbox, self.stats = Outbox(max_frames, max_bytes), TapStats()
        self.recorder = FlightRecorder(HostRing([self.site], 64), [HOOK_POINT], WIDTH, "float32")
        self.publisher = Publisher(
            Link(
                target=Target.parse(target),
                tls=tls or ClientTls(),
                tap_id="tap",
                engine=engine_pb2.EngineInfo(name="vllm"),
                hook_points=[HOOK_POINT],
                outbox=self.outbox,
                stats=self.stats,
                prepare=self._prepare,
                on_plan=self._on_plan,
                recorder=self.recorder,
                memory=tap_pb2.TapMemory(recorder_rows=self.recorder.rows),
            )
        )
        self.positions: dict[int, int] = {}
        self.publisher.start()

    def _prepare(self, message: tap_pb2.WatchPlan) -> ActivePlan:
        return prepare_plan(message, {HOOK_POINT: self.site})

    def _on_plan(self, plan: ActivePlan | None) -> None:
        with self._planned:
            self.plan = plan
            self._planned.notify_all()

    def wait_plan(self) -> None:
        with self._planned:
            assert self._planned.wait_for(lambda: self.plan is not None, 60)

    def begin(self, handle: int) -> None:
        self.positions[handle] = 0
        self.publisher.offer(Step(1, begins=[Begin(handle, f"r{handle}-00000000", f"r{handle}", b"", 1, "")]))

    def rows(self, handle: int, count: int = 1, *, broken: bool = False) -> None:
        plan = self.plan
        assert plan is not None
        segment = Segment(handle, self.positions[handle], count)
        self.positions[handle] += count
        self.publisher.offer(Step(1, segments=[segment], payload=_Rows(count, broken=broken), plan_digest=plan.digest))

    def end(self, handle: int) -> None:
        self.publisher.offer(Step(1, ends=[End(handle, self.positions[handle], b"", 2)]))


@pytest.fixture
def target(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s.sock"


@pytest.fixture
def harness(target: str) -> Iterator[Harness]:
    made = Harness(target)
    yield made
    made.publisher.close(1.0)


def _sidecar(target: str, version: int = 1, **arguments: object) -> RecordingSidecar:
    return RecordingSidecar(target, identity_plan([HOOK_POINT], WIDTH, version), **arguments)  # type: ignore[arg-type]


def test_a_sidecar_that_comes_late_gets_everything(harness: Harness, target: str) -> None:
    harness.begin(1)
    sidecar = _sidecar(target)
    harness.wait_plan()
    harness.rows(1, 5)
    harness.end(1)
    sidecar.wait_for(lambda seen: seen.ended(["r1"]), "end")
    sidecar.stop()
    assert sidecar.breaches == []
    assert sidecar.named("r1")[0].observed == 5
    assert sidecar.hellos[0].last_session_id == ""
    assert list(sidecar.hellos[0].hook_points) == [HOOK_POINT]


def test_a_restarted_sidecar_hears_of_live_requests_and_judges_on(harness: Harness, target: str) -> None:
    first = _sidecar(target)
    harness.wait_plan()
    harness.begin(1)
    harness.rows(1, 5)
    first.wait_for(lambda seen: seen.frames >= 2 and seen.named("r1")[0].observed == 5, "rows")
    # The acknowledgement is on its way back; wait until it has come.
    assert _eventually(lambda: harness.outbox.empty)
    first.stop()
    harness.rows(1, 2)
    second = _sidecar(target, version=8)
    second.wait_for(lambda seen: bool(seen.named("r1")) and seen.named("r1")[0].next_position == 7, "resumed rows")
    harness.rows(1, 1)
    harness.end(1)
    second.wait_for(lambda seen: seen.ended(["r1"]), "end")
    second.stop()
    (recorded,) = second.named("r1")
    assert second.breaches == []
    assert recorded.begin.resumed
    assert recorded.gaps == [(0, 5, SIDECAR_LOST)]
    assert recorded.observed == 3
    assert second.hellos[0].last_session_id == first.session_id


def test_a_sidecar_that_never_acknowledges_fills_the_queue_and_every_row_is_accounted_for(
    target: str,
) -> None:
    harness = Harness(target, max_frames=8)
    silent = _sidecar(target, acknowledge=lambda seq: False)
    harness.wait_plan()
    harness.begin(1)
    for _ in range(50):
        harness.rows(1)
    harness.end(1)
    silent.stop()
    patient = _sidecar(target)
    patient.wait_for(lambda seen: seen.ended(["r1"]), "end")
    harness.publisher.close(1.0)
    patient.stop()
    (recorded,) = patient.named("r1")
    assert patient.breaches == []
    assert recorded.next_position == 50
    assert recorded.observed <= 8
    assert recorded.gap_positions(QUEUE_FULL) >= 42
    assert harness.outbox.dropped_rows == recorded.gap_positions(QUEUE_FULL)


def test_rows_that_cannot_be_read_are_a_tap_error(harness: Harness, target: str) -> None:
    sidecar = _sidecar(target)
    harness.wait_plan()
    harness.begin(1)
    harness.recorder.settle(harness.recorder.place(6), 6, [Segment(1, 0, 6)], None)
    harness.rows(1, 2)
    harness.rows(1, 3, broken=True)
    harness.rows(1, 1)
    harness.end(1)
    sidecar.wait_for(lambda seen: seen.ended(["r1"]), "end")
    capture = sidecar.capture(1)
    sidecar.wait_for(lambda seen: capture.done, "capture")
    sidecar.stop()
    assert sidecar.breaches == []
    assert list(capture.rows[HOOK_POINT]) == [0, 1, 5], "rows of a step that is not to be trusted"
    assert sidecar.named("r1")[0].gaps == [(2, 3, TAP_ERROR)]
    assert harness.stats.publisher_errors == 1


def test_a_plan_that_cannot_be_served_is_refused_and_the_books_go_on(harness: Harness, target: str) -> None:
    sidecar = RecordingSidecar(target, identity_plan(["resid_post.7"], WIDTH))
    harness.begin(1)
    harness.end(1)
    sidecar.wait_for(lambda seen: seen.ended(["r1"]), "end")
    sidecar.stop()
    assert harness.plan is None
    assert harness.stats.publisher_errors == 1


def test_an_unforeseen_error_over_a_plan_ends_no_stream(
    harness: Harness, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(message: tap_pb2.WatchPlan) -> ActivePlan:
        raise ValueError("unforeseen")

    monkeypatch.setattr(harness.publisher._link, "prepare", prepare)
    sidecar = _sidecar(target)
    harness.begin(1)
    harness.end(1)
    sidecar.wait_for(lambda seen: seen.ended(["r1"]), "end")
    sidecar.stop()
    assert (harness.stats.connections, harness.stats.publisher_errors) == (1, 1)


def test_what_is_larger_than_a_message_arrives_whole(target: str) -> None:
    harness = Harness(target, max_bytes=1 << 30)
    sidecar = _sidecar(target)
    harness.wait_plan()
    harness.begin(1)
    count = MAX_MESSAGE_BYTES // (4 * (1 + WIDTH)) + 1000
    harness.rows(1, count)
    harness.end(1)
    sidecar.wait_for(lambda seen: seen.ended(["r1"]), "end")
    sidecar.stop()
    (recorded,) = sidecar.named("r1")
    assert sidecar.breaches == []
    assert (recorded.observed, recorded.gaps) == (count, [])
    assert harness.stats.connections == 1
    harness.publisher.close(1.0)


def test_captured_rows_arrive_behind_the_frames_and_end_with_the_request(target: str) -> None:
    harness = Harness(target)
    recorder, site = harness.recorder, harness.site
    sidecar = _sidecar(target)
    harness.wait_plan()
    harness.begin(1)
    recorder.begin(1)
    expected: dict[int, list[float]] = {}

    def step(count: int) -> None:
        first = harness.positions[1]
        for row in range(count):
            site.buffer_nd[row] = torch.arange(WIDTH) + 100.0 * (first + row)
            expected[first + row] = site.buffer_nd[row].tolist()
        recorder.settle(recorder.place(count), count, [Segment(1, first, count)], None)
        harness.rows(1, count)

    step(5)
    sidecar.wait_for(lambda seen: bool(seen.named("r1")) and seen.named("r1")[0].observed == 5, "rows")
    held, followed, unknown = sidecar.capture(1), sidecar.capture(1, follow=True), sidecar.capture(4711)
    sidecar.wait_for(lambda seen: held.done and unknown.done and len(followed.messages) >= 1, "captures")
    for _ in range(6):
        step(2)
    harness.end(1)
    recorder.end(1)
    sidecar.wait_for(lambda seen: followed.done, "end of the followed request")
    late = sidecar.capture(1, hook_points=(HOOK_POINT,))
    sidecar.wait_for(lambda seen: late.done, "rows of the finished request")
    sidecar.stop()
    assert sidecar.breaches == []
    assert sidecar.hellos[0].memory.recorder_rows == recorder.rows
    assert _rows(held) == {position: expected[position] for position in range(5)}
    assert _rows(followed) == _rows(late) == expected
    assert unknown.rows == {}
    harness.publisher.close(1.0)


def _rows(capture: RecordedCapture) -> dict[int, list[float]]:
    return {position: row_d.tolist() for position, row_d in capture.rows[HOOK_POINT].items()}


def test_close_sends_what_is_left_and_tells_the_counters(target: str) -> None:
    harness = Harness(target)
    sidecar = _sidecar(target)
    harness.wait_plan()
    harness.begin(1)
    harness.rows(1, 2)
    harness.stats.steps, harness.stats.steps_fired = 9, 9
    harness.end(1)
    harness.publisher.close(30.0)
    sidecar.wait_for(lambda seen: seen.ended(["r1"]) and seen.heartbeats[-1].steps == 9, "last heartbeat")
    sidecar.stop()
    assert harness.publisher.ended


def test_close_without_a_sidecar_ends_the_threads(target: str) -> None:
    harness = Harness(target)
    harness.begin(1)
    harness.publisher.close(30.0)
    assert harness.publisher.ended


def _eventually(condition: object, seconds: float = 60.0) -> bool:
    waited = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():  # type: ignore[operator]
            return True
        waited.wait(0.01)
    return False


def test_a_tap_speaks_through_mutual_tls_and_takes_a_renewed_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("server"), authority.issue("client", expired=True)
    credentials = ServerTls(server.cert, server.key, authority.ca).credentials()
    sidecar = RecordingSidecar("127.0.0.1:0", identity_plan([HOOK_POINT], WIDTH), credentials=credentials)
    tls = ClientTls(authority.ca, client.cert, client.key)
    harness = Harness(f"tls:127.0.0.1:{sidecar.port}", tls=tls)
    try:
        harness.begin(1)
        # The sidecar does not let in who shows an expired certificate; it is read again at each attempt.
        authority.issue("client")
        harness.wait_plan()
        harness.rows(1, 5)
        harness.end(1)
        sidecar.wait_for(lambda seen: seen.ended(["r1"]), "end")
        assert sidecar.named("r1")[0].observed == 5
        assert sidecar.breaches == []
    finally:
        harness.publisher.close(1.0)
        sidecar.stop()


def test_a_tap_sends_nothing_to_a_sidecar_that_it_does_not_trust(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Authority(tmp_path, "theirs").issue("server")
    credentials = ServerTls(server.cert, server.key).credentials()
    sidecar = RecordingSidecar("127.0.0.1:0", identity_plan([HOOK_POINT], WIDTH), credentials=credentials)
    harness = Harness(f"tls:127.0.0.1:{sidecar.port}", tls=ClientTls(ca=Authority(tmp_path, "ours").ca))
    try:
        harness.begin(1)
        deadline = threading.Event()
        while "CERTIFICATE_VERIFY_FAILED" not in caplog.text:
            assert not deadline.wait(0.05)
        assert sidecar.hellos == []
        assert harness.plan is None
    finally:
        harness.publisher.close(1.0)
        sidecar.stop()
