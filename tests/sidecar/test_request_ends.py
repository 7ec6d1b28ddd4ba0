"""Requests end, whatever becomes of what is told of them."""

from __future__ import annotations

from typing import Any

import pytest
from fake_tap import FrameMaker, Rows, begin, end
from sidecar_kit import new_judge

from monitor.sidecar.gap_judge import GapJudge
from monitor.sidecar.plan import TapPlan
from monitor.v1.coverage_pb2 import CoverageTotals


@pytest.fixture
def telling_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(GapJudge, "ended", broken)


@pytest.mark.usefixtures("telling_fails")
def test_a_request_of_which_nothing_can_be_told_has_ended_all_the_same_and_so_has_the_next(plan: TapPlan) -> None:
    judge, maker = new_judge(plan), FrameMaker(plan.watch_plan)
    judge.apply(maker([Rows(1, 0, (0, 1)), Rows(2, 0, (0,))], begins=[begin(1), begin(2)]))
    slots = {request.slot for request in judge.live}
    verdicts = judge.apply(maker([Rows(2, 1, (1,))], ends=[end(1, 2), end(2, 2)]))
    assert [request.identity.external_id for request in verdicts.ended] == ["req-1", "req-2"]
    assert [request.summary().coverage.observed for request in verdicts.ended] == [2, 2]
    assert judge.live == []
    assert judge.problems.by_kind == {"judging failed": 2}
    assert judge.totals.message() == CoverageTotals(positions=4, observed=4)
    # What they held is there for others, and a capture may still ask for their rows.
    judge.apply(maker([Rows(3, 0, (0,)), Rows(4, 0, (0,))], begins=[begin(3), begin(4)]))
    assert {request.slot for request in judge.live} == slots
    subject = judge.subject(verdicts.ended[0].identity.generation_id)
    assert subject is not None
    assert not subject.live


@pytest.mark.usefixtures("telling_fails")
def test_a_handle_whose_last_request_never_ended_serves_the_next(plan: TapPlan) -> None:
    judge, maker = new_judge(plan), FrameMaker(plan.watch_plan)
    judge.apply(maker([Rows(1, 0, (0,))], begins=[begin(1)]))
    verdicts = judge.apply(maker([Rows(1, 0, (0, 1))], begins=[begin(1, request_id="other")]))
    assert [request.identity.external_id for request in verdicts.ended] == ["req-1"]
    assert [(request.identity.external_id, request.coverage.observed) for request in judge.live] == [("other", 2)]


@pytest.mark.usefixtures("telling_fails")
def test_when_a_tap_goes_away_each_of_its_requests_ends_once(plan: TapPlan) -> None:
    judge, maker = new_judge(plan), FrameMaker(plan.watch_plan)
    judge.apply(maker([Rows(1, 0, (0,)), Rows(2, 0, (0,))], begins=[begin(1), begin(2)]))
    ended = judge.finish_all("it went away").ended
    assert [(request.identity.external_id, request.notes) for request in ended] == [
        ("req-1", ["it went away"]),
        ("req-2", ["it went away"]),
    ]
    assert judge.live == []
