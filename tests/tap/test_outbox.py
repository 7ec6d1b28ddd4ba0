"""The outbox keeps its books under any schedule of steps, full queues, lost connections and new sidecars."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monitor.tap.frame import Frame
from monitor.tap.outbox import Outbox
from monitor.tap.record import (
    NO_PLAN,
    PREFIX_CACHE,
    QUEUE_FULL,
    SIDECAR_LOST,
    Begin,
    End,
    Gap,
    HostRows,
    Segment,
    Step,
)


class _Rows:
    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.nbytes = 4 * rows

    def read(self) -> HostRows:
        ids_n = np.arange(self.rows, dtype=np.int32)
        return HostRows(ids_n, [("resid_post.1", ids_n[:, None].astype(np.float32))])


def _begin(handle: int) -> Begin:
    return Begin(handle, f"r{handle}", f"r{handle}", b"\0" * 8, 1, "")


def _step(
    *, begins: tuple[int, ...] = (), rows: tuple[Segment, ...] = (), digest: str = "A", ends: tuple[End, ...] = ()
):
    payload = _Rows(sum(segment.length for segment in rows)) if digest else None
    return Step(1, [_begin(handle) for handle in begins], [], list(rows), payload, digest, NO_PLAN, list(ends))


def _drain(outbox: Outbox) -> list[Frame]:
    frames = []
    while (frame := outbox.take()) is not None:
        frames.append(frame)
    return frames


def _connected(**bounds: int) -> Outbox:
    outbox = Outbox(**{"max_frames": 64, "max_bytes": 1 << 20, **bounds})
    outbox.connect("s1", 0, 0)
    outbox.plan("A", 3)
    return outbox


def test_frames_are_numbered_from_one_and_carry_this_sessions_plan_version() -> None:
    outbox = _connected()
    outbox.offer(_step(begins=(1,), rows=(Segment(1, 0, 4),)))
    outbox.offer(_step(rows=(Segment(1, 4, 1),)))
    assert [(frame.seq, frame.plan_version, frame.rows) for frame in _drain(outbox)] == [(1, 3, 4), (2, 3, 1)]


def test_a_reconnect_to_the_same_session_sends_only_what_it_has_not_taken() -> None:
    outbox = _connected()
    for position in range(4):
        outbox.offer(_step(begins=(1,) if position == 0 else (), rows=(Segment(1, position, 1),)))
    _drain(outbox)
    outbox.acknowledge(1)
    outbox.connect("s1", 2, 0)
    assert [frame.seq for frame in _drain(outbox)] == [3, 4]


def test_a_frame_that_may_have_arrived_is_sent_again_unchanged() -> None:
    outbox = _connected()
    outbox.offer(_step(begins=(1,), digest=""))
    _drain(outbox)
    outbox.connect("s1", 0, 0)
    outbox.offer(_step(ends=(End(1, 0, b"", 2),), digest=""))
    again, later = _drain(outbox)
    assert (again.seq, list(again.begins), list(again.ends)) == (1, [1], [])
    assert (later.seq, list(later.ends)) == (2, [1])


def test_a_new_session_hears_of_live_requests_with_what_the_old_one_knew_as_gaps() -> None:
    outbox = _connected()
    step = _step(begins=(1,), rows=(Segment(1, 32, 4),))
    step.gaps.append(Gap(1, 0, 32, PREFIX_CACHE))
    outbox.offer(step)
    outbox.offer(_step(rows=(Segment(1, 36, 1),)))
    _drain(outbox)
    outbox.acknowledge(1)
    outbox.connect("s2", 0, 0)
    outbox.plan("A", 9)
    resume, again = _drain(outbox)
    assert resume.begins[1].resumed
    assert resume.gaps[1] == [Gap(1, 0, 32, PREFIX_CACHE), Gap(1, 32, 4, SIDECAR_LOST)]
    # Not acknowledged by the old session: judged by the new one, whose plan holds the same directions.
    assert (again.segments, again.plan_version) == ([Segment(1, 36, 1)], 9)
    assert [resume.seq, again.seq] == [3, 4]


def test_rows_encoded_for_another_plan_than_the_new_sessions_become_gaps() -> None:
    outbox = _connected()
    outbox.offer(_step(begins=(1,), rows=(Segment(1, 0, 2),)))
    _drain(outbox)
    outbox.offer(_step(rows=(Segment(1, 2, 1),)))
    outbox.connect("s2", 0, 0)
    outbox.plan("B", 1)
    sent, unsent = _drain(outbox)
    assert sent.gaps[1] == [Gap(1, 0, 2, SIDECAR_LOST)]
    assert unsent.gaps[1] == [Gap(1, 2, 1, NO_PLAN)]
    assert outbox.dropped_rows == 3


def test_plan_versions_never_go_back_although_an_earlier_content_returns() -> None:
    """The sidecar lets an earlier plan's requests go when it sees rows of a later one."""
    outbox = _connected()
    outbox.plan("B", 4)
    for position, (digest, version) in enumerate([("A", 3), ("B", 4)]):
        step = _step(begins=(1,) if not position else (), rows=(Segment(1, position, 1),), digest=digest)
        step.plan_version = version
        outbox.offer(step)
    outbox.plan("A", 5)
    step = _step(rows=(Segment(1, 2, 1),), digest="A")
    step.plan_version = 5
    outbox.offer(step)
    assert [frame.plan_version for frame in _drain(outbox)] == [3, 4, 5]
    # Sent again after a reconnect: as before.
    outbox.connect("s1", 0, 0)
    assert [frame.plan_version for frame in _drain(outbox)] == [3, 4, 5]


def test_what_does_not_fit_is_one_growing_gap() -> None:
    outbox = _connected(max_frames=2)
    outbox.offer(_step(begins=(1,), rows=(Segment(1, 0, 1),)))
    for position in range(1, 100):
        outbox.offer(_step(rows=(Segment(1, position, 1),)))
    frames = _drain(outbox)
    assert [frame.rows for frame in frames] == [1, 1, 0]
    assert frames[-1].gaps == {1: [Gap(1, 2, 98, QUEUE_FULL)]}
    assert outbox.dropped_rows == 98


def test_requests_of_an_outage_are_kept_up_to_a_bound_and_counted_beyond_it() -> None:
    outbox = Outbox(max_frames=8, max_bytes=1 << 20, max_requests=100)
    for handle in range(1, 251):
        outbox.offer(_step(begins=(handle,), rows=(Segment(handle, 0, 7),), digest=""))
        outbox.offer(_step(ends=(End(handle, 7, b"", 2),)))
    outbox.connect("s1", 0, 0)
    (frame,) = _drain(outbox)
    reported = len(frame.begins)
    assert 50 <= reported <= 100
    assert reported + outbox.unreported_requests == 250
    assert outbox.unreported_positions == 7 * outbox.unreported_requests
    assert set(frame.begins) == set(frame.ends) == set(frame.gaps)
    assert 250 in frame.begins, "the oldest are forgotten first"


def test_bookkeeping_too_large_for_a_message_goes_in_several() -> None:
    outbox = Outbox(64, 1 << 20, max_frame_bytes=1000)
    outbox.connect("s1", 0, 0)
    for handle in range(1, 31):
        outbox.offer(_step(begins=(handle,), digest=""))
    frames = _drain(outbox)
    assert len(frames) > 3
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    assert [handle for frame in frames for handle in frame.begins] == list(range(1, 31))
    assert all(frame.nbytes <= 1000 for frame in frames)
    outbox.acknowledge(frames[-1].seq)
    assert outbox.empty
    outbox.connect("s2", 0, 0)
    again = _drain(outbox)
    assert [begin.resumed for frame in again for begin in frame.begins.values()] == [True] * 30
    assert all(frame.nbytes <= 1000 for frame in again)


def test_rows_too_large_for_a_message_go_in_several_and_keep_their_values() -> None:
    outbox = Outbox(64, 1 << 20, max_frame_bytes=700)
    outbox.connect("s1", 0, 0)
    outbox.plan("A", 1)
    segments = (Segment(1, 5, 3), Segment(2, 0, 14), Segment(3, 9, 2))
    outbox.offer(_step(begins=(1, 2, 3), digest=""))
    outbox.offer(_step(rows=segments, ends=(End(1, 8, b"", 2),)))
    begins, *parts = _drain(outbox)
    assert list(begins.begins) == [1, 2, 3]
    assert len(parts) > 2
    assert all(frame.nbytes <= 700 and frame.plan_version == 1 for frame in parts)
    positions = [
        (segment.handle, segment.first + offset)
        for frame in parts
        for segment in frame.segments
        for offset in range(segment.length)
    ]
    assert positions == [(h, first + offset) for h, first, length in segments for offset in range(length)]
    rows = [frame.payload.read() for frame in parts if frame.payload is not None]
    assert [token for part in rows for token in part.token_ids_n.tolist()] == list(range(19))
    assert [value for part in rows for value in part.activations[0][1][:, 0].tolist()] == list(range(19))
    assert [list(frame.ends) for frame in parts] == [[]] * (len(parts) - 1) + [[1]]


def test_the_window_holds_back_what_a_slow_sidecar_has_not_judged() -> None:
    outbox = Outbox(64, 1 << 20)
    outbox.connect("s1", 0, credits=3)
    outbox.plan("A", 1)
    for position in range(10):
        outbox.offer(_step(begins=(1,) if position == 0 else (), rows=(Segment(1, position, 1),)))
    assert [frame.seq for frame in _drain(outbox)] == [1, 2, 3]
    outbox.acknowledge(2)
    assert [frame.seq for frame in _drain(outbox)] == [4, 5]


@dataclass
class _Judged:
    """What one sidecar session knows of one request."""

    positions: int = 0
    rows: int = 0
    ended: int | None = None
    reasons: list[int] = field(default_factory=list)


class OutboxMachine(RuleBasedStateMachine):
    """An engine that serves requests, and sidecars that come, go, forget, and do not always acknowledge."""

    def __init__(self) -> None:
        super().__init__()
        # Frames of a few entries, so that they are cut all the time.
        self.outbox = Outbox(max_frames=6, max_bytes=1 << 16, max_frame_bytes=700)
        self.live: dict[int, int] = {}
        self.finished: dict[int, int] = {}
        self.next_handle = 1
        self.session = 0
        self.connected = False
        self.digest = ""
        self.taken_seq = 0
        self.known: dict[int, _Judged] = {}
        self.ends_taken: set[int] = set()
        self.settled: set[int] = set()
        self.cuts = 0

    @rule(new=st.integers(0, 2), cached=st.integers(0, 3), lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
    def step(self, new: int, cached: int, lengths: list[int]) -> None:
        begins = tuple(range(self.next_handle, self.next_handle + new))
        self.next_handle += new
        gaps = [Gap(handle, 0, cached, PREFIX_CACHE) for handle in begins if cached]
        self.live |= dict.fromkeys(begins, cached)
        rows = []
        for handle, length in zip(list(self.live), lengths, strict=False):
            rows.append(Segment(handle, self.live[handle], length))
            self.live[handle] += length
        step = _step(begins=begins, rows=tuple(rows), digest=self.digest)
        step.gaps.extend(gaps)
        self.outbox.offer(step)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.live)))
        self.finished[handle] = self.live.pop(handle)
        self.outbox.offer(_step(ends=(End(handle, self.finished[handle], b"", 2),), digest=""))

    @precondition(lambda self: not self.connected)
    @rule(restarted=st.booleans(), digest=st.sampled_from(["A", "B"]))
    def connect(self, restarted: bool, digest: str) -> None:
        if restarted or not self.session:
            self.session += 1
            self.taken_seq, self.known = 0, {}
        self.connected = True
        self.outbox.connect(f"s{self.session}", self.taken_seq, 0)
        self.outbox.plan(digest, self.session)
        self.digest = digest

    @precondition(lambda self: self.connected)
    @rule(count=st.integers(1, 4), delivered=st.booleans(), acknowledged=st.booleans())
    def send(self, count: int, delivered: bool, acknowledged: bool) -> None:
        for _ in range(count):
            waiting = len(self.outbox._frames)
            frame = self.outbox.take()
            if frame is None:
                return
            self.cuts += len(self.outbox._frames) - waiting
            assert frame.nbytes <= 700 or len({*frame.begins, *frame.gaps}) == 1
            if not delivered:
                # The connection breaks under the frame.
                self.connected = False
                return
            self._judge(frame)
            if acknowledged:
                self.outbox.acknowledge(frame.seq)
                # Frames before this one were acknowledged with it.
                self.settled |= {handle for handle, judged in self.known.items() if judged.ended is not None}

    @precondition(lambda self: self.connected)
    @rule()
    def disconnect(self) -> None:
        self.connected = False

    def _judge(self, frame: Frame) -> None:
        assert frame.seq == self.taken_seq + 1 or not self.taken_seq
        assert frame.seq > self.taken_seq
        self.taken_seq = frame.seq
        for handle, begin in frame.begins.items():
            assert handle not in self.known, "announced twice in one session"
            assert handle not in self.settled, "announced again although its end was acknowledged"
            assert begin.request_id == f"r{handle}"
            self.known[handle] = _Judged()
        for handle, gaps in frame.gaps.items():
            for gap in gaps:
                self._advance(handle, gap.first, gap.length)
                self.known[handle].reasons.append(gap.reason)
        for segment in frame.segments:
            self._advance(segment.handle, segment.first, segment.length)
            self.known[segment.handle].rows += segment.length
        for handle, end in frame.ends.items():
            assert self.known[handle].positions == end.positions == self.finished[handle]
            self.known[handle].ended = end.positions
            self.ends_taken.add(handle)

    def _advance(self, handle: int, first: int, length: int) -> None:
        judged = self.known[handle]
        assert judged.ended is None
        assert first == judged.positions, "a position is missing or reported twice"
        judged.positions += length

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.outbox._frames) <= 6 + 3 + self.cuts
        assert self.outbox._bytes == sum(frame.nbytes for frame in self.outbox._frames)

    def teardown(self) -> None:
        """In the end a sidecar listens to everything: every request is known to some session, whole."""
        # A reconnect, so that what was sent and not acknowledged comes again.
        self.connect(False, "A")
        while (frame := self.outbox.take()) is not None:
            self._judge(frame)
            self.outbox.acknowledge(frame.seq)
        assert self.outbox.empty
        assert set(self.finished) <= self.ends_taken
        for handle, positions in self.live.items():
            assert self.known[handle].positions == positions
        assert self.outbox.unreported_requests == 0


OutboxMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestOutboxMachine = OutboxMachine.TestCase
