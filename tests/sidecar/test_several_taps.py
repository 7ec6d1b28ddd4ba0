"""Several taps and engines on one sidecar at once, their books kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from fake_tap import FakeTap, Rows, begin, connect, end, hello
from session_calls import policies
from sidecar_kit import ENGINE, World, channel_to, running_sidecar

from monitor.v1.coverage_pb2 import CoverageTotals
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import GenerationSummary, ListGenerationsRequest
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.policies_pb2 import TapStatus


def rank_of(engine: EngineInfo, rank: int) -> EngineInfo:
    """One rank of a pipeline of two."""
    part = EngineInfo()
    part.CopyFrom(engine)
    part.pipeline_parallel_rank, part.pipeline_parallel_size = rank, 2
    return part


def other_model() -> EngineInfo:
    engine = EngineInfo()
    engine.CopyFrom(ENGINE)
    engine.model, engine.served_model = "/models/large", "large"
    return engine


async def serve(tap: FakeTap, handles: Sequence[int], answer: int, activation: float) -> None:
    """Requests with a prompt of 3 tokens, all live at once and in step; the last position is hot."""
    await tap.send(tap.frame([Rows(h, 0, (0, 1, 2)) for h in handles], begins=[begin(h) for h in handles]))
    for position in range(3, 3 + answer):
        hot = (activation if position == 2 + answer else 0.0,)
        await tap.send(tap.frame([Rows(h, position, (4,), dense=hot, late=hot) for h in handles]))
    await tap.send(tap.frame(ends=[end(h, 3 + answer) for h in handles]))


def by_id(statuses: Sequence[TapStatus]) -> dict[str, TapStatus]:
    return {status.tap_id: status for status in statuses}


async def test_ranks_of_a_pipeline_and_engines_with_other_models_at_once(world: World) -> None:
    early = hello("rank-0", rank_of(ENGINE, 0), hooks=("resid_post.3",))
    late = hello("rank-1", rank_of(ENGINE, 1), hooks=("resid_post.5",))
    second = hello("large", other_model())
    async with (
        running_sidecar(world.config()) as sidecar,
        channel_to(world.socket) as one,
        channel_to(world.socket) as two,
        channel_to(world.socket) as three,
    ):
        taps = [await connect(one, early), await connect(two, late), await connect(three, second)]
        # The same requests on both ranks, and the same handles on all taps.
        await asyncio.gather(
            serve(taps[0], range(1, 6), 40, 9.0),
            serve(taps[1], range(1, 6), 40, 9.0),
            serve(taps[2], range(1, 4), 7, 9.0),
        )
        listed = await policies(one)
        summaries = (
            await GenerationServiceStub(one).ListGenerations(ListGenerationsRequest(include_unflagged=True))
        ).generations
        totals = await sidecar.taps.between_frames(sidecar.taps.totals)
    found = by_id(listed.taps)
    assert found["rank-0"].coverage == found["rank-1"].coverage == CoverageTotals(positions=215, observed=215)
    assert found["large"].coverage == CoverageTotals(positions=30, observed=30)
    assert totals.message() == CoverageTotals(positions=460, observed=460)
    assert (totals.frames, totals.rows) == (93, 460)
    # Each rank serves the policy whose hook point it holds; the other model is matched by one of them only.
    assert _unserved(found["rank-0"]) == {"quiet"}
    assert _unserved(found["rank-1"]) == {"loud"}
    assert _unserved(found["large"]) == {"loud"}
    alerts = {status.name: status.alerts + status.shadow_alerts for status in listed.policies}
    assert alerts == {"loud": 5, "quiet": 5 + 3}
    # Position 0 is no content, and both policies skip it.
    assert {status.name: status.rows_judged for status in listed.policies} == {"loud": 210, "quiet": 210 + 27}
    assert len({summary.generation_id for summary in summaries}) == len(summaries) == 13
    assert _fired(summaries, "tiny", "loud/LOUD-001") == _fired(summaries, "tiny", "quiet/QUIET-001") == 5
    assert _fired(summaries, "large", "quiet/QUIET-001") == 3


async def test_a_tap_that_sends_nonsense_or_goes_away_leaves_the_others_alone(world: World) -> None:
    async with running_sidecar(world.config(tap_grace_seconds=0.05)) as sidecar, channel_to(world.socket) as channel:
        good, bad = await connect(channel, hello("good")), await connect(channel, hello("bad"))
        await good.send(good.frame([Rows(1, 0, (0, 1, 2))], begins=[begin(1)]))
        await bad.send(bad.frame([Rows(1, 0, (0, 1, 2), dense=(np.nan,) * 3)], begins=[begin(1)]))
        await bad.send(bad.frame([Rows(2, 0, (0, 1))]))
        bad.drop()
        while len([*sidecar.taps]) > 1:
            await asyncio.sleep(0.01)
        await good.send(good.frame([Rows(1, 3, (4,), dense=(9.0,))], ends=[end(1, 4)]))
        (status,) = (await policies(channel)).taps
        totals = await sidecar.taps.between_frames(sidecar.taps.totals)
        problems = await sidecar.taps.between_frames(sidecar.taps.problems)
    assert status.tap_id == "good"
    assert (status.errors, status.coverage) == (0, CoverageTotals(positions=4, observed=4))
    assert totals.message() == CoverageTotals(positions=7, observed=4, dropped=3)
    assert problems == {"activations not finite": 1, "unknown handle": 1}


def _unserved(status: TapStatus) -> set[str]:
    return {line.split(":")[0].removeprefix("policy ") for line in status.unserved}


def _fired(summaries: Sequence[GenerationSummary], model: str, rule: str) -> int:
    return sum(rule in summary.fired for summary in summaries if summary.model == model)
