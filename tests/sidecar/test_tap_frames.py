"""Frames with gaps, holes and nonsense, over a real grpc.aio server. The tap is a fake that speaks the protocol."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from fake_tap import Rows, begin, connect, end, hello
from session_calls import flag, policies, record_of
from sidecar_kit import World, channel_to, running_sidecar

from monitor.v1.tap_pb2 import Gap, GapReason, StreamRequest


async def test_gaps_are_counted_by_their_reason(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        prompt = (0, *[1] * 9)
        await tap.send(
            tap.frame(
                [Rows(1, 4, (1,) * 6)],
                begins=[begin(1, prompt)],
                gaps=[Gap(handle=1, first_position=0, count=4, reason=GapReason.GAP_REASON_PREFIX_CACHE)],
            ),
            tap.frame(
                [Rows(1, 12, (3,), dense=(5,))],
                gaps=[Gap(handle=1, first_position=10, count=2, reason=GapReason.GAP_REASON_QUEUE_FULL)],
            ),
            tap.frame(ends=[end(1, 13)]),
        )
        record = await record_of(channel, "req-1")
    coverage = record.summary.coverage
    assert (coverage.observed, coverage.dropped, coverage.unseen, coverage.positions) == (7, 2, 4, 13)
    assert [(gap.first_position, gap.count, gap.reason) for gap in record.gaps] == [
        (0, 4, "unseen: prefix cache"),
        (10, 2, "dropped: queue full"),
    ]
    assert list(record.notes) == []
    # The tokens of the prompt are known although they were not seen, those of the response are not.
    assert record.tokens[1].text.strip() == "make"
    assert not record.tokens[1].observed
    assert (record.tokens[10].text, record.tokens[10].token_id) == ("", 0)


async def test_positions_nobody_reported_are_dropped_and_told(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await tap.send(
            tap.frame([Rows(1, 0, (0, 1, 2), dense=(0, 0, 3))], begins=[begin(1)]),
            tap.frame([Rows(1, 5, (3,))]),
            tap.frame(ends=[end(1, 8)]),
        )
        record = await record_of(channel, "req-1")
        errors = (await policies(channel)).taps[0].errors
    coverage = record.summary.coverage
    assert (coverage.observed, coverage.dropped, coverage.positions) == (4, 4, 8)
    assert {gap.reason for gap in record.gaps} == {"dropped: never reported by the tap"}
    assert "coverage does not add up: 4 positions were never reported" in record.notes[0]
    assert errors == 1


async def test_malformed_frames_are_counted_and_the_stream_goes_on(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await tap.send(tap.frame([Rows(1, 0, (0, 1, 2))], begins=[begin(1)]))
        short_tokens = tap.frame([Rows(1, 3, (3,))])
        short_tokens.token_ids = b"\x00\x01"
        short_values = tap.frame([Rows(1, 4, (3,))])
        short_values.activations[0].values = b"\x00" * 5
        other_plan = tap.frame([Rows(1, 5, (3,))])
        other_plan.plan_version = 77
        no_hook = tap.frame([Rows(1, 6, (3,))])
        del no_hook.activations[1]
        uneven = tap.frame([Rows(1, 7, (3,))])
        uneven.row_counts.append(4)
        unknown = tap.frame([Rows(99, 0, (3,)), Rows(1, 8, (3,))])
        not_finite = tap.frame(
            [Rows(1, 9, (3, 3, 3), dense=(0, float("nan"), float("inf"))), Rows(1, 12, (3,), dense=(9,))]
        )
        too_far = tap.frame([Rows(1, 4_000_000_000, (3,))])
        bad_begin = tap.frame(begins=[begin(2)])
        bad_begin.begins[0].prompt_token_ids = b"\x01"
        frames = [short_tokens, short_values, other_plan, no_hook, uneven, unknown, not_finite, too_far, bad_begin]
        await tap.send(*frames, tap.frame(ends=[end(1, 13), end(5, 1)]))
        record = await record_of(channel, "req-1")
        status = (await policies(channel)).taps[0]
    coverage = record.summary.coverage
    assert coverage.positions == 13
    assert coverage.observed + coverage.dropped + coverage.unseen == 13
    assert coverage.observed == 3 + 1 + 1 + 1
    reasons = {gap.first_position: gap.reason for gap in record.gaps}
    assert reasons == {
        3: "dropped: frame refused by the sidecar",
        7: "dropped: never reported by the tap",
        10: "dropped: activations not finite",
    }
    assert list(record.summary.fired) == ["loud/LOUD-001"]
    assert status.errors >= 9


async def test_bytes_that_are_no_message_end_the_stream_and_nothing_else(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        raw: Any = channel.stream_stream("/monitor.v1.TapService/Stream")()
        await raw.write(b"\xff\xff\xff\xff garbage")
        with pytest.raises(grpc.aio.AioRpcError):
            await raw.read()
        tap = await connect(channel)
        await flag(tap)
        assert (await record_of(channel, "req-1")).summary.fired


async def test_bytes_that_are_no_message_after_hello_are_told(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        raw: Any = channel.stream_stream("/monitor.v1.TapService/Stream")()
        await raw.write(StreamRequest(hello=hello()).SerializeToString())
        await raw.read()
        await raw.read()
        await raw.write(b"\xff\xff\xff\xff garbage")
        with pytest.raises(grpc.aio.AioRpcError, match="no StreamRequest") as caught:
            await raw.read()
        errors = (await policies(channel)).taps[0].errors
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors == 1
