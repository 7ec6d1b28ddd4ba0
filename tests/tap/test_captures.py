"""Captures: which messages come, in which order, and what they do to frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monitor.rpc import Target, residuals_from
from monitor.sae import HookPoint
from monitor.tap.frame import Frame
from monitor.tap.link import Link
from monitor.tap.outbox import Outbox
from monitor.tap.record import Begin, End, Segment, Step
from monitor.tap.recorder.captures import FOLLOW_SECONDS, MAX_CAPTURES, Captures
from monitor.tap.recorder.recorder import MAX_MESSAGE_BYTES, FlightRecorder
from monitor.tap.recorder.ring import HostRing
from monitor.tap.sender import Sender, Turn
from monitor.tap.sites import Site
from monitor.tap.stats import TapStats
from monitor.v1 import engine_pb2, tap_pb2

WIDTH = 4
HOOK_POINTS = ("resid_post.0", "resid_post.1")


class Tap:
    """A recorder that the test fills, and the captures of one connection. A row holds hook, handle and position."""

    def __init__(self, slots: int = 64, width: int = WIDTH, max_rows: int = 16) -> None:
        fired = torch.zeros(1, dtype=torch.int64)
        self.sites = [Site(HookPoint(i), torch.zeros(max_rows, width), fired, "", None) for i in range(2)]
        self.recorder = FlightRecorder(HostRing(self.sites, slots), HOOK_POINTS, width, "float32")
        self.stats = TapStats()
        self.captures = Captures(self.recorder, self.stats)
        self.positions: dict[int, int] = {}
        self.now = 100.0

    def step(self, counts: dict[int, int]) -> None:
        segments, row = [], 0
        for handle, count in counts.items():
            if handle not in self.positions:
                self.recorder.begin(handle)
            first = self.positions.get(handle, 0)
            for offset in range(count):
                for hook, site in enumerate(self.sites):
                    site.buffer_nd[row + offset, :3] = torch.tensor([hook, handle, first + offset])
            segments.append(Segment(handle, first, count))
            self.positions[handle] = first + count
            row += count
        self.recorder.settle(self.recorder.place(row), row, segments, None)

    def ask(self, capture_id: int, handle: int, *, follow: bool = False, hook_points: tuple[str, ...] = ()) -> None:
        self.captures.ask(handle, tap_pb2.CaptureRows(capture_id=capture_id, follow=follow, hook_points=hook_points))

    def messages(self, limit: int = 1000) -> list[tap_pb2.ResidualRows]:
        """What can be sent now; each row is checked for being whose the message says."""
        sent = []
        while len(sent) < limit and self.captures.due(self.now) <= self.now:
            message = self.captures.message(self.now)
            if message is None:
                break
            rows = message.residual_rows
            sent.append(rows)
            if rows.row_count:
                hook = HOOK_POINTS.index(rows.hook_point)
                positions = range(rows.first_position, rows.first_position + rows.row_count)
                expected = [[hook, rows.handle, position] for position in positions]
                assert residuals_from(rows)[:, :3].tolist() == expected
        return sent


def _parts(messages: list[tap_pb2.ResidualRows]) -> list[tuple[int, str, int, int, bool]]:
    return [(m.capture_id, m.hook_point, m.first_position, m.row_count, m.last) for m in messages]


def test_rows_come_in_order_of_positions_and_then_the_last_message() -> None:
    tap = Tap()
    tap.step({1: 3, 2: 2})
    tap.step({1: 1, 2: 1})
    tap.ask(9, 1)
    tap.step({1: 1})
    assert _parts(tap.messages()) == [
        (9, "resid_post.0", 0, 4, False),
        (9, "resid_post.1", 0, 4, False),
        (9, "", 0, 0, True),
    ]
    assert tap.captures.due(tap.now) == math.inf


def test_only_the_hook_points_that_are_named() -> None:
    tap = Tap()
    tap.step({1: 3})
    tap.ask(9, 1, hook_points=("resid_post.1", "resid_post.30"))
    assert _parts(tap.messages()) == [(9, "resid_post.1", 0, 3, False), (9, "", 0, 0, True)]


@pytest.mark.parametrize("what", ["unknown", "nobody", "no such hook point", "recorder off", "overwritten"])
def test_where_nothing_is_there_the_last_message_comes_at_once(what: str) -> None:
    tap = Tap(slots=8)
    tap.step({1: 3, 2: 2})
    if what == "overwritten":
        tap.recorder.end(1)
        for _ in range(8):
            tap.step({2: 1})
    if what == "recorder off":
        tap.captures = Captures(None, tap.stats)
    handle = {"unknown": 77, "nobody": 0}.get(what, 1)
    tap.ask(9, handle, follow=True, hook_points=("resid_post.7",) if what == "no such hook point" else ())
    assert _parts(tap.messages()) == [(9, "", 0, 0, True)]


def test_rows_of_a_finished_request_are_there_until_they_are_overwritten() -> None:
    tap = Tap(slots=8)
    tap.step({1: 4})
    tap.recorder.end(1)
    tap.step({2: 6})
    tap.ask(9, 1)
    assert _parts(tap.messages()) == [
        (9, "resid_post.0", 2, 2, False),
        (9, "resid_post.1", 2, 2, False),
        (9, "", 0, 0, True),
    ]


def test_following_sends_what_comes_and_ends_with_the_request() -> None:
    tap = Tap()
    tap.step({1: 3})
    tap.ask(9, 1, follow=True, hook_points=HOOK_POINTS[:1])
    assert _parts(tap.messages()) == [(9, "resid_post.0", 0, 3, False)]
    tap.step({1: 1})
    tap.step({1: 1})
    assert tap.messages() == []
    assert tap.captures.due(tap.now) > tap.now, "it would spin"
    tap.now += FOLLOW_SECONDS
    assert _parts(tap.messages()) == [(9, "resid_post.0", 3, 2, False)]
    tap.step({1: 1})
    tap.recorder.end(1)
    tap.now += FOLLOW_SECONDS
    assert _parts(tap.messages()) == [(9, "resid_post.0", 5, 1, False), (9, "", 0, 0, True)]
    assert tap.captures.due(tap.now) == math.inf


def test_a_ring_that_turns_fast_hurries_those_that_follow() -> None:
    tap = Tap(slots=16)
    tap.step({1: 2})
    tap.ask(9, 1, follow=True, hook_points=HOOK_POINTS[:1])
    tap.messages()
    tap.now += FOLLOW_SECONDS
    tap.messages()
    seen = []
    for _ in range(20):
        tap.step({1: 3})
        seen.extend(tap.messages())
    sent = [m.first_position + i for m in seen for i in range(m.row_count)]
    assert sent == list(range(2, 2 + len(sent)))
    assert len(sent) > 40


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.dictionaries(st.integers(1, 3), st.integers(1, 4), min_size=1)),
        st.tuples(st.just("end"), st.integers(1, 3)),
        st.tuples(st.just("capture"), st.integers(1, 4)),
        st.tuples(st.just("follow"), st.integers(1, 4)),
        st.tuples(st.just("send"), st.integers(1, 4)),
        st.tuples(st.just("wait"), st.none()),
    ),
    max_size=40,
)


@given(operations=OPERATIONS)
def test_every_row_is_sent_once_in_order_whatever_happens_between_two_messages(
    operations: list[tuple[str, Any]],
) -> None:
    tap = Tap(slots=1000)
    for handle in (1, 2, 3):
        tap.recorder.begin(handle)
    ended: set[int] = set()
    # What each capture must bring: positions there when it was asked for, or, of one that follows, all.
    there: dict[int, tuple[int, int | None]] = {}
    sent: list[tap_pb2.ResidualRows] = []
    ending: list[tuple[str, Any]] = [("end", handle) for handle in (1, 2, 3)]
    for name, argument in [*operations, *ending, ("wait", None), ("send", 10_000)]:
        if name == "step":
            counts = {handle: count for handle, count in argument.items() if handle not in ended}
            if counts:
                tap.step(counts)
        elif name == "end":
            tap.recorder.end(argument)
            ended.add(argument)
        elif name == "send":
            sent.extend(tap.messages(limit=argument))
        elif name == "wait":
            tap.now += FOLLOW_SECONDS
        else:
            tap.ask(len(there), argument, follow=name == "follow")
            there[len(there)] = argument, None if name == "follow" else tap.positions.get(argument, 0)
    for capture_id, (handle, count) in there.items():
        mine = [message for message in sent if message.capture_id == capture_id]
        assert [message.last for message in mine] == [False] * (len(mine) - 1) + [True]
        for hook_point in HOOK_POINTS:
            parts = [message for message in mine if message.hook_point == hook_point]
            positions = [part.first_position + row for part in parts for row in range(part.row_count)]
            assert positions == list(range(tap.positions.get(handle, 0) if count is None else count))


def test_captures_take_turns_and_each_message_is_bounded() -> None:
    tap = Tap(slots=600, width=2000, max_rows=300)
    tap.step({1: 300})
    tap.step({2: 300})
    for capture_id, handle in ((8, 1), (9, 2)):
        tap.ask(capture_id, handle)
    messages = tap.messages()
    assert all(message.ByteSize() <= MAX_MESSAGE_BYTES for message in messages)
    assert [message.capture_id for message in messages[:4]] == [8, 9, 8, 9]
    for capture_id in (8, 9):
        assert sum(m.row_count for m in messages if m.capture_id == capture_id) == 2 * 300
        assert [m.last for m in messages if m.capture_id == capture_id][-1]


def test_what_is_overwritten_while_a_capture_waits_is_not_sent() -> None:
    tap = Tap(slots=600, width=2000, max_rows=300)
    tap.step({1: 300})
    tap.ask(9, 1, hook_points=HOOK_POINTS[:1])
    (first,) = tap.messages(limit=1)
    tap.step({2: 300})
    tap.step({2: 200})
    rest = tap.messages()
    assert (first.first_position, first.row_count) == (0, 32)
    assert [m.first_position + i for m in rest for i in range(m.row_count)] == list(range(200, 300))
    assert rest[-1].last


def test_a_flood_of_captures_is_answered_within_bounds() -> None:
    tap = Tap()
    tap.step({1: 1})
    for capture_id in range(MAX_CAPTURES + 50):
        tap.ask(capture_id, 1, hook_points=HOOK_POINTS[:1])
    messages = tap.messages(10_000)
    assert tap.stats.captures_refused == 50
    assert sum(message.last for message in messages) == MAX_CAPTURES + 50
    assert sum(message.row_count for message in messages) == MAX_CAPTURES


def test_rows_that_cannot_be_read_end_the_capture_and_not_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    tap = Tap()
    tap.step({1: 3})
    monkeypatch.setattr(tap.recorder, "read", lambda hook, run: 1 / 0)
    tap.ask(9, 1)
    assert _parts(tap.messages()) == [(9, "", 0, 0, True)]
    assert tap.stats.publisher_errors == 1


def test_frames_and_heartbeats_go_before_captures_however_many_there_are() -> None:
    tap = Tap()
    tap.step({1: 8})
    outbox = Outbox(1000, 1 << 20)
    link = Link(
        target=Target.parse("unix:/nowhere"),
        tap_id="tap",
        engine=engine_pb2.EngineInfo(),
        hook_points=list(HOOK_POINTS),
        outbox=outbox,
        stats=tap.stats,
        prepare=lambda message: pytest.fail("no plan comes"),
        on_plan=lambda plan: None,
        recorder=tap.recorder,
    )
    sender = Sender(link, tap.captures)
    outbox.connect("session", 0, 0)
    random = np.random.default_rng(0)
    with link.changed:
        sender.frames_from(0.0)
        for capture_id in range(MAX_CAPTURES):
            tap.ask(capture_id, 1, follow=bool(capture_id % 2))
        for handle in range(1, 200):
            # Between two turns of the stream the engine may have made any number of steps.
            for index in range(int(random.integers(0, 3))):
                outbox.offer(Step(1, begins=[Begin(1000 * handle + index, "r", "r", b"", 1, "")]))
                outbox.offer(Step(1, ends=[End(1000 * handle + index, 0, b"", 2)]))
            assert sender.next(next_heartbeat=0.0) is Turn.HEARTBEAT
            while isinstance(turn := sender.next(next_heartbeat=math.inf), Frame):
                outbox.acknowledge(turn.seq)
            assert outbox.empty, "a capture went before a frame"
            assert turn is Turn.CAPTURE
            assert tap.captures.message(tap.now) is not None
