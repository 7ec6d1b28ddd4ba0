"""Coverage adds up, whatever a tap sends. The judge is driven directly, without a server."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fake_tap import FrameMaker, Rows, begin, end
from hypothesis import given, settings
from hypothesis import strategies as st
from sidecar_kit import new_judge

from monitor.sidecar import row_judge
from monitor.sidecar.alerting import readings_of
from monitor.sidecar.coverage import NEVER_REPORTED, CoverageBook
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.request import LiveRequest
from monitor.v1.alerts_pb2 import DetectorReading
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import Gap, GapReason, StepFrame

SPAN = st.tuples(st.integers(0, 40), st.integers(0, 12))
STEP = st.one_of(
    st.tuples(st.just("begin"), st.integers(0, 3), st.integers(0, 20)),
    st.tuples(st.just("gap"), st.integers(0, 3), SPAN, st.integers(0, 6)),
    st.tuples(st.just("rows"), st.integers(0, 3), SPAN, st.booleans()),
    st.tuples(st.just("end"), st.integers(0, 3), st.integers(0, 60)),
    st.tuples(st.just("again"), st.integers(1, 5)),
)


def make_frames(plan: TapPlan, steps: list[tuple[object, ...]]) -> list[StepFrame]:
    maker, frames = FrameMaker(plan.watch_plan), []
    for number, step in enumerate(steps):
        match step:
            case ("begin", int(handle), int(prompt)):
                # Two request ids per handle: some begins repeat, others take the handle over.
                frames.append(maker(begins=[begin(handle, [1] * prompt, f"{handle}-{number % 2}")]))
            case ("gap", int(handle), (int(first), int(count)), int(reason)):
                gap = Gap(handle=handle, first_position=first, count=count, reason=reason)  # type: ignore[arg-type]
                frames.append(maker(gaps=[gap]))
            case ("rows", int(handle), (int(first), int(count)), bool(finite)):
                # Some fire, others clear again.
                dense = [9.0 * (position % 3 == 0) for position in range(first, first + count)]
                if count and not finite:
                    dense[count // 2] = np.nan
                frames.append(maker([Rows(handle, first, [1] * count, dense=dense)]))
            case ("end", int(handle), int(positions)):
                frames.append(maker(ends=[end(handle, positions)]))
            case ("again", int(back)) if frames:
                frames.append(frames[max(0, len(frames) - back)])
    return frames


def total(request: LiveRequest) -> int:
    book = request.coverage
    return book.observed + book.restored + book.dropped + book.unseen


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEP, max_size=40), block_size=st.sampled_from([0, 1, 2, 8]))
def test_every_position_is_counted_once(plan: TapPlan, steps: list[tuple[object, ...]], block_size: int) -> None:
    engine = EngineInfo(model="tiny", max_model_len=4096, prefix_block_size=block_size)
    judge = new_judge(plan, PrefixStates(1 << 20), engine)
    ended: list[LiveRequest] = []
    for frame in make_frames(plan, steps):
        ended += judge.apply(frame).ended
        for request in judge.live:
            assert total(request) == request.coverage.next_position
            assert request.coverage.observed_p().sum() == request.coverage.observed
    ended += judge.finish_all("the end").ended
    assert judge.live == []
    assert judge.totals.positions == sum(total(request) for request in ended)
    assert judge.totals.observed == sum(request.coverage.observed for request in ended)
    assert judge.totals.broken == sum(any("does not add up" in note for note in request.notes) for request in ended)
    for request in ended:
        assert total(request) == request.coverage.next_position
        # What was promised at the end and what was seen differ only where a note says so.
        if total(request) != request.positions or request.coverage.holes:
            assert any("coverage does not add up" in note for note in request.notes)
        else:
            assert not any("coverage does not add up" in note for note in request.notes)
        gaps = request.coverage.gaps
        assert sum(gap.count for gap in gaps) == total(request) - request.coverage.observed
        covered = {p for gap in gaps for p in range(gap.first_position, gap.first_position + gap.count)}
        assert len(covered) == sum(gap.count for gap in gaps)
        observed = set(np.flatnonzero(request.coverage.observed_p()).tolist())
        assert observed.isdisjoint(covered)
        assert observed | covered == set(range(request.coverage.next_position))


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(STEP, max_size=30), repeats=st.data())
def test_frames_sent_again_change_nothing(
    plan: TapPlan, steps: list[tuple[object, ...]], repeats: st.DataObject
) -> None:
    frames = make_frames(plan, steps)
    once, twice = new_judge(plan), new_judge(plan)
    ended_once, ended_twice = [], []
    for index, frame in enumerate(frames):
        first, again = once.apply(frame), twice.apply(frame)
        assert [alert.alert_id for alert in first.alerts] == [alert.alert_id for alert in again.alerts]
        ended_once += first.ended
        ended_twice += again.ended
        for old in frames[repeats.draw(st.integers(0, index)) : index + 1]:
            verdicts = twice.apply(old)
            assert not verdicts.alerts
            assert not verdicts.ended
    books = [(request.coverage, request.positions, request.notes) for request in [*ended_once, *once.live]]
    assert books == [(request.coverage, request.positions, request.notes) for request in [*ended_twice, *twice.live]]


@settings(max_examples=50, deadline=None)
@given(cuts=st.sets(st.integers(1, 29), max_size=10))
def test_scores_do_not_depend_on_how_rows_are_cut(plan: TapPlan, cuts: set[int]) -> None:
    dense = np.sin(np.arange(30.0)).tolist()
    whole, cut = new_judge(plan), new_judge(plan)
    maker = FrameMaker(plan.watch_plan)
    whole.apply(maker([Rows(1, 0, [1] * 30, dense=dense)], begins=[begin(1, [1] * 5)]))
    maker = FrameMaker(plan.watch_plan)
    cut.apply(maker(begins=[begin(1, [1] * 5)]))
    edges = [0, *sorted(cuts), 30]
    for first, last in pairwise(edges):
        cut.apply(maker([Rows(1, first, [1] * (last - first), dense=dense[first:last])]))
    for one, other in zip(whole.live[0].log.scores(30), cut.live[0].log.scores(30), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_gap_behind_the_rows_of_its_frame_does_not_swallow_them(plan: TapPlan) -> None:
    judge = new_judge(plan)
    maker = FrameMaker(plan.watch_plan)
    gaps = [
        Gap(handle=1, first_position=0, count=2, reason=GapReason.GAP_REASON_PREFIX_CACHE),
        Gap(handle=1, first_position=5, count=4, reason=GapReason.GAP_REASON_TAP_ERROR),
    ]
    frame = maker([Rows(1, 2, [1, 1, 1])], begins=[begin(1, [1] * 5)], gaps=gaps, ends=[end(1, 9)])
    (request,) = judge.apply(frame).ended
    assert (request.coverage.observed, request.coverage.unseen, request.coverage.dropped) == (3, 6, 0)
    assert request.notes == []


def test_rows_that_could_not_be_judged_are_dropped_and_the_rest_of_the_frame_counts(
    plan: TapPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = new_judge(plan)
    maker = FrameMaker(plan.watch_plan)
    judge.apply(maker([Rows(1, 0, [1] * 3), Rows(2, 0, [1] * 3)], begins=[begin(1, [1] * 3), begin(2, [1] * 3)]))

    def broken(*_: object) -> None:
        raise ArithmeticError("judging")

    with monkeypatch.context() as patched:
        patched.setattr(judge.editions.newest.engine, "advance", broken)
        gap = Gap(handle=1, first_position=5, count=2, reason=GapReason.GAP_REASON_TAP_ERROR)
        frame = maker([Rows(1, 3, [1, 1]), Rows(2, 3, [1])], gaps=[gap], ends=[end(1, 7)])
        (request,) = judge.apply(frame).ended
    assert (request.coverage.observed, request.coverage.dropped, request.coverage.unseen) == (3, 2, 2)
    assert [(gap.first_position, gap.count, gap.reason) for gap in request.coverage.gaps] == [
        (3, 2, "dropped: judging failed"),
        (5, 2, "unseen: tap error"),
    ]
    assert request.notes == []
    assert judge.problems.by_kind == {"judging failed": 1}
    # The other request goes on.
    assert judge.apply(maker([Rows(2, 4, [1], dense=[9.0])])).alerts[0].position == 4


def test_an_alert_that_cannot_be_made_does_not_stop_the_others(plan: TapPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = new_judge(plan)
    maker = FrameMaker(plan.watch_plan)

    def readings(*arguments: Any) -> list[DetectorReading]:
        if arguments[3] == 1:
            raise ArithmeticError("readings")
        return readings_of(*arguments)

    monkeypatch.setattr(row_judge, "readings_of", readings)
    rows = [Rows(1, 0, [0, 1], dense=[0, 9]), Rows(2, 0, [0, 1], dense=[0, 9])]
    frame = maker(rows, begins=[begin(1, [0, 1]), begin(2, [0, 1])], ends=[end(1, 2), end(2, 2)])
    verdicts = judge.apply(frame)
    assert [alert.external_id for alert in verdicts.alerts] == ["req-2"]
    assert [request.coverage.observed for request in verdicts.ended] == [2, 2]
    assert verdicts.ended[0].notes == ["loud/LOUD-001 fired at position 1, but its alert could not be made"]
    assert judge.problems.by_kind == {"alert failed": 1}


def test_the_rows_of_these_tests_fire(plan: TapPlan) -> None:
    steps: list[tuple[object, ...]] = [("begin", 1, 3), ("rows", 1, (0, 6), True), ("again", 1)]
    judge = new_judge(plan)
    assert [len(judge.apply(frame).alerts) for frame in make_frames(plan, steps)] == [0, 1, 0]


def test_nothing_at_a_far_position_settles_nothing(plan: TapPlan) -> None:
    judge = new_judge(plan)
    maker = FrameMaker(plan.watch_plan)
    judge.apply(maker(begins=[begin(1, [1] * 3)], gaps=[Gap(handle=1, first_position=2000, count=0)]))
    judge.apply(maker([Rows(1, 2000, [])]))
    judge.apply(maker([Rows(1, 0, [1] * 3)]))
    assert (judge.live[0].coverage.observed, judge.live[0].coverage.dropped) == (3, 0)
    assert judge.problems.by_kind == {"no positions": 2}


def test_a_hole_is_told_with_its_reason() -> None:
    book = CoverageBook()
    assert book.fresh(0, 3) == (0, 3)
    book.observe(3)
    assert book.fresh(1, 2) == (3, 0)
    assert book.fresh(2, 4) == (3, 3)
    book.miss(3, "unseen: prefix cache")
    assert book.fresh(8, 1) == (8, 1)
    book.observe(1)
    assert [(gap.first_position, gap.count, gap.reason) for gap in book.gaps] == [
        (3, 3, "unseen: prefix cache"),
        (6, 2, NEVER_REPORTED),
    ]
    assert book.finish(9) == {
        "positions never reported": "2 positions were never reported by the tap and are counted as dropped"
    }
    assert book.finish(7)["more positions than the end says"] == (
        "the tap reported 7 positions at the end and 9 before it"
    )
