"""Captures under any order of what taps, requests and readers do."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_tap import hello, residual_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from sidecar_kit import WIDTH

from monitor.rpc import residuals_from
from monitor.sidecar.downlink import Downlink
from monitor.sidecar.evidence import capture as capture_module
from monitor.sidecar.evidence import captures as captures_module
from monitor.sidecar.evidence.capture import Capture, Outcome, Subject
from monitor.sidecar.evidence.captures import Captures
from monitor.sidecar.problem_log import ProblemLog
from monitor.v1.tap_pb2 import CaptureRows, Directive, ResidualRows

HOOKS = ("resid_post.3", "resid_post.5")


@dataclass(eq=False)
class Tap:
    hello: Any = field(default_factory=hello)
    downlink: Downlink | None = field(default_factory=Downlink)
    judge: Any = field(default_factory=lambda: SimpleNamespace(problems=ProblemLog(logging.getLogger(__name__), "tap")))


def subject(handle: int, *, live: bool = True) -> Subject:
    return Subject(f"gen-{handle}", f"req-{handle}", handle, positions=9, live=live, content="full", flagged=False)


def value(handle: int, hook_point: str, position: int) -> float:
    """What stands in a row tells whose it is."""
    return handle * 10_000 + HOOKS.index(hook_point) * 1_000 + position


def message(capture_id: int, handle: int, hook_point: str, first: int, count: int, *, last: bool) -> ResidualRows:
    directive = Directive(handle=handle, capture=CaptureRows(capture_id=capture_id))
    known = hook_point if hook_point in HOOKS else HOOKS[0]
    column_n1 = np.array([[value(handle, known, first + n)] for n in range(count)], np.float32).reshape(count, 1)
    return residual_rows(directive, hook_point, np.repeat(column_n1, WIDTH, axis=1), first=first, last=last)


SEND = st.tuples(
    st.just("send"),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([*HOOKS, "resid_post.6", ""]),
    st.integers(0, 12),
    st.integers(0, 4),
    st.booleans(),
)
STEPS = st.lists(
    st.one_of(
        SEND,
        st.tuples(st.just("start"), st.integers(1, 3), st.booleans(), st.booleans()),
        st.tuples(st.just("end"), st.integers(1, 3)),
        st.tuples(st.just("read"), st.integers(0, 3), st.integers(1, 3)),
        st.tuples(st.just("stop"), st.integers(0, 3)),
        st.tuples(st.just("gone")),
    ),
    max_size=60,
)


async def play(steps: list[Any]) -> None:
    captures, tap = Captures(idle_seconds=3600), Tap()
    started: list[Capture] = []
    got: dict[int, list[ResidualRows]] = {}
    discarded: set[int] = set()

    async def read(capture: Capture, most: int) -> None:
        for _ in range(most):
            if not capture._waiting:
                return
            rows = await anext(capture)
            got[capture.id].append(capture.joined(rows) if most > 1 else rows)

    for kind, *what in steps:
        if kind == "send":
            capture_id, handle, hook_point, first, count, last = what
            captures.take(tap, message(capture_id, handle, hook_point, first, count, last=last))
        elif kind == "start":
            handle, follow, live = what
            started.append(captures.start(tap, subject(handle, live=live), HOOKS, follow=follow))
            got[started[-1].id] = []
        elif kind == "end":
            captures.request_ended(f"gen-{what[0]}")
        elif kind == "read" and what[0] < len(started):
            await read(started[what[0]], what[1])
        elif kind == "stop" and what[0] < len(started):
            captures.stop(started[what[0]])
            discarded.add(started[what[0]].id)
        elif kind == "gone":
            captures.tap_gone(tap)
    captures.close()
    assert len(captures) == 0
    for capture in started:
        assert capture.outcome is not None
        taken = sum(capture.counts.values())
        got[capture.id] += [rows async for rows in capture]
        if capture.id not in discarded:
            assert sum(rows.row_count for rows in got[capture.id]) == taken
        seen = set()
        for rows in got[capture.id]:
            values_nd = residuals_from(rows)
            for n in range(rows.row_count):
                place = (rows.hook_point, rows.first_position + n)
                assert place not in seen, "a row came twice"
                seen.add(place)
                assert values_nd[n, 0] == value(capture.subject.handle, *place), "a row of another"
        captures.stop(capture)
    assert captures._waiting_bytes == 0


@settings(deadline=None, max_examples=300)
@given(STEPS)
def test_rows_reach_their_capture_once_and_nothing_is_left_behind(steps: list[Any]) -> None:
    asyncio.run(play(steps))


async def test_rows_that_go_on_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "JOINED_BYTES", 6 * 4 * WIDTH)
    captures, tap = Captures(idle_seconds=3600), Tap()
    capture = captures.start(tap, subject(1), HOOKS, follow=False)
    for first in (0, 2, 4, 6, 9):
        for hook_point in HOOKS:
            captures.take(tap, message(capture.id, 1, hook_point, first, 2, last=first == 9))
    joined = [capture.joined(rows) async for rows in capture]
    assert [(rows.hook_point, rows.first_position, rows.row_count) for rows in joined] == [
        (HOOKS[0], 0, 6),
        (HOOKS[1], 0, 6),
        (HOOKS[0], 6, 2),
        (HOOKS[1], 6, 2),
        (HOOKS[0], 9, 2),
        (HOOKS[1], 9, 2),
    ]
    for rows in joined:
        wanted = [value(1, rows.hook_point, rows.first_position + n) for n in range(rows.row_count)]
        assert residuals_from(rows)[:, 0].tolist() == wanted
    captures.stop(capture)
    assert captures._waiting_bytes == 0


async def test_bytes_that_wait_are_bounded_over_all_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    row_bytes = 4 * WIDTH
    monkeypatch.setattr(captures_module, "MOST_WAITING_BYTES", 10 * row_bytes)
    monkeypatch.setattr(capture_module, "MOST_WAITING_BYTES", 6 * row_bytes)
    captures, tap = Captures(idle_seconds=3600), Tap()
    one, two = (captures.start(tap, subject(handle), HOOKS, follow=False) for handle in (1, 2))
    for capture in (one, two):
        for first in (0, 3, 6):
            captures.take(tap, message(capture.id, capture.subject.handle, HOOKS[0], first, 3, last=False))
    # Two messages fit into each capture; of the second capture only one into the whole.
    assert [capture.counts[HOOKS[0]] for capture in (one, two)] == [6, 3]
    assert one.overflowed
    assert two.overflowed
    await anext(one)
    captures.take(tap, message(two.id, 2, HOOKS[0], 3, 3, last=True))
    assert two.counts[HOOKS[0]] == 6
    captures.stop(one)
    captures.stop(two)
    assert captures._waiting_bytes == 0
    assert tap.judge.problems.by_kind == {"residual rows refused": 3}


async def test_a_capture_that_follows_waits_as_long_as_its_request_runs() -> None:
    captures, tap = Captures(idle_seconds=0.01), Tap()
    followed = captures.start(tap, subject(1), HOOKS, follow=True)
    asked = captures.start(tap, subject(2), HOOKS, follow=False)
    assert [rows async for rows in asked] == []
    assert asked.outcome is Outcome.TIMED_OUT
    assert followed.outcome is None
    captures.request_ended("gen-1")
    assert [rows async for rows in followed] == []
    assert followed.outcome is Outcome.TIMED_OUT
