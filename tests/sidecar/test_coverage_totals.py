"""Coverage of all requests together, and the invariant that is checked in production."""

from __future__ import annotations

import asyncio
import logging

import pytest
from fake_tap import FrameMaker, Rows, begin, connect, end, hello
from session_calls import policies, record_of
from sidecar_kit import ENGINE, World, channel_to, new_judge, running_sidecar

from monitor.sidecar.plan import TapPlan
from monitor.v1.coverage_pb2 import CoverageTotals
from monitor.v1.tap_pb2 import Gap, GapReason, Heartbeat, StreamRequest, TapMemory


def test_an_end_that_does_not_fit_is_counted_logged_as_an_error_and_noted(
    plan: TapPlan, caplog: pytest.LogCaptureFixture
) -> None:
    judge, maker = new_judge(plan), FrameMaker(plan.watch_plan)
    with caplog.at_level(logging.ERROR):
        for handle in range(1, 6):
            judge.apply(maker([Rows(handle, 0, (1, 1, 1))], begins=[begin(handle)]))
            (ended,) = judge.apply(maker(ends=[end(handle, 5)])).ended
            assert ended.notes == [
                "coverage does not add up: 2 positions were never reported by the tap and are counted as dropped"
            ]
        judge.apply(maker([Rows(9, 0, (1, 1, 1))], begins=[begin(9)]))
        (ended,) = judge.apply(maker(ends=[end(9, 2)])).ended
    assert "the tap reported 2 positions at the end and 3 before it" in ended.notes[0]
    assert judge.totals.message() == CoverageTotals(positions=28, observed=18, dropped=10, broken=6)
    # With back-off: the 1st, 2nd and 4th of one kind, the 1st of the other.
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [line.split(": ")[1] for line in said] == [
        *["coverage does not add up, positions never reported"] * 3,
        "coverage does not add up, more positions than the end says",
    ]


def test_in_health_nothing_is_broken(plan: TapPlan, caplog: pytest.LogCaptureFixture) -> None:
    judge, maker = new_judge(plan), FrameMaker(plan.watch_plan)
    gap = Gap(handle=1, first_position=0, count=2, reason=GapReason.GAP_REASON_PREFIX_CACHE)
    judge.apply(maker([Rows(1, 2, (2,))], begins=[begin(1)], gaps=[gap]))
    (ended,) = judge.apply(maker([Rows(1, 3, (1, 1))], ends=[end(1, 5)])).ended
    assert ended.notes == []
    assert judge.totals.message() == CoverageTotals(positions=5, observed=3, unseen=2)
    assert caplog.messages == []


async def test_a_tap_s_status_holds_totals_engine_heartbeat_and_memory(world: World) -> None:
    memory = TapMemory(buffer_bytes=1024, recorder_bytes=2048, recorder_rows=16, queue_bytes=4096)
    async with running_sidecar(world.config(tap_grace_seconds=0.05)) as sidecar, channel_to(world.socket) as channel:
        tap = await connect(channel, hello(memory=memory, hooks=("resid_post.3",)))
        await tap.call.write(StreamRequest(heartbeat=Heartbeat(steps=7, steps_fired=7, rows=3, rejected_draft_rows=2)))
        await tap.send(
            tap.frame([Rows(1, 0, (0, 1, 2), dense=(0, 9, 0))], begins=[begin(1)]), tap.frame(ends=[end(1, 4)])
        )
        (status,) = (await policies(channel)).taps
        assert status.coverage == CoverageTotals(positions=4, observed=3, dropped=1, broken=1)
        assert (status.frames, status.rows) == (2, 3)
        assert (status.engine, status.memory) == (ENGINE, memory)
        assert (status.heartbeat.steps, status.heartbeat.rejected_draft_rows) == (7, 2)
        assert [line.split(":")[0] for line in status.unserved] == ["policy quiet"]
        assert "never reported" in (await record_of(channel, "req-1")).notes[0]
        tap.drop()
        while [*sidecar.taps]:
            await asyncio.sleep(0.01)
        # What a tap counted stays in the totals when it is gone.
        totals = await sidecar.taps.between_frames(sidecar.taps.totals)
        assert totals.message() == CoverageTotals(positions=4, observed=3, dropped=1, broken=1)
