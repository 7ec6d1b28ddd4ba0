"""Residual rows of one generation out of a tap's flight recorder. The tap is a fake that speaks the protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest
from fake_tap import FakeTap, Rows, begin, connect, end, hello, residual_rows
from session_calls import flag, policies, record_of
from sidecar_kit import HOOKS, WIDTH, World, channel_to, running_sidecar

from monitor.rpc import residuals_from
from monitor.rpc.errors import error_info
from monitor.sidecar.evidence import capture, captures
from monitor.v1.generations_pb2 import ReadResidualsRequest
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.tap_pb2 import ResidualRows, TapMemory

ROWS = np.arange(5 * WIDTH, dtype=np.float32).reshape(5, WIDTH)


async def read(channel: grpc.aio.Channel, id_: str = "req-1", hooks: tuple[str, ...] = ()) -> list[ResidualRows]:
    call = GenerationServiceStub(channel).ReadResiduals(ReadResidualsRequest(id=id_, hook_points=hooks), timeout=20)
    return [response.rows async for response in call]


async def refusal(reading: Any) -> tuple[str, grpc.StatusCode, str]:
    """Reason, code and words with which a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reading
    info = error_info(caught.value)
    assert info is not None, caught.value.details()
    return info.reason, caught.value.code(), str(caught.value.details())


async def quiet_request(tap: FakeTap, handle: int = 1, *, ended: bool = True) -> None:
    await tap.send(tap.frame([Rows(handle, 0, (0, 1, 2))], begins=[begin(handle)]))
    if ended:
        await tap.send(tap.frame([Rows(handle, 3, (3, 4))], ends=[end(handle, 5)]))


@pytest.mark.parametrize("ended", [True, False])
async def test_rows_of_a_generation_come_as_the_tap_sends_them(world: World, ended: bool) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await quiet_request(tap, 7, ended=ended)
        reading = asyncio.create_task(read(channel, "req-7"))
        directive = await tap.next_directive()
        # Two runs of positions with a hole, frames between them, hook points mixed.
        third, fifth = HOOKS
        await tap.send_rows(residual_rows(directive, third, ROWS[:1]))
        await tap.send(tap.frame([Rows(8, 0, (0, 1))], begins=[begin(8)]))
        await tap.send_rows(
            residual_rows(directive, fifth, ROWS, last=True),
            residual_rows(directive, third, ROWS[3:], first=3),
            residual_rows(directive, third, ROWS[:0], last=True),
        )
        got = await reading
    assert directive.handle == 7
    assert list(directive.capture.hook_points) == list(HOOKS)
    assert not directive.capture.follow
    assert [(rows.hook_point, rows.first_position, rows.row_count) for rows in got] == [
        (third, 0, 1),
        (fifth, 0, 5),
        (third, 3, 2),
    ]
    np.testing.assert_array_equal(residuals_from(got[1]), ROWS)
    np.testing.assert_array_equal(residuals_from(got[2]), ROWS[3:])


async def test_hook_points_can_be_chosen(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await quiet_request(tap)
        reading = asyncio.create_task(read(channel, hooks=("resid_post.5",)))
        directive = await tap.answer(ROWS)
        got = await reading
        wrong = await refusal(read(channel, hooks=("resid_post.5", "resid_post.6")))
    assert list(directive.capture.hook_points) == ["resid_post.5"]
    assert [rows.hook_point for rows in got] == ["resid_post.5"]
    assert wrong[:2] == ("NOT_TAPPED", grpc.StatusCode.INVALID_ARGUMENT)
    assert "resid_post.6" in wrong[2]


async def test_several_captures_of_interleaved_generations_keep_apart(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        for handle in (1, 2, 3):
            await quiet_request(tap, handle)
        readings = [asyncio.create_task(read(channel, f"req-{handle}", ("resid_post.3",))) for handle in (1, 2, 3)]
        directives = [await tap.next_directive() for _ in readings]
        for part in range(5):
            for directive in reversed(directives):
                rows = ROWS[part : part + 1] + 100 * directive.handle
                await tap.send_rows(residual_rows(directive, "resid_post.3", rows, first=part, last=part == 4))
        for handle, reading in enumerate(readings, 1):
            values_nd = np.concatenate([residuals_from(rows) for rows in await reading])
            np.testing.assert_array_equal(values_nd, ROWS + 100 * handle)
    assert len({directive.capture.capture_id for directive in directives}) == 3


async def test_malformed_rows_are_counted_and_left_out_and_the_stream_goes_on(world: World) -> None:
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        tap = await connect(channel)
        await quiet_request(tap)
        reading = asyncio.create_task(read(channel, hooks=("resid_post.3",)))
        d = await tap.next_directive()
        before = (await policies(channel)).taps[0].errors
        bad = [
            residual_rows(d, "resid_post.3", ROWS, handle=99),
            residual_rows(d, "resid_post.5", ROWS),
            residual_rows(d, "resid_post.3", ROWS, dtype="float8"),
            residual_rows(d, "resid_post.3", ROWS, values=b"\x00" * 7),
            residual_rows(d, "resid_post.3", ROWS, row_count=4_000_000_000),
            residual_rows(d, "resid_post.3", ROWS[:, :4]),
            residual_rows(d, "resid_post.3", ROWS, width=0, values=b""),
            residual_rows(d, "resid_post.3", ROWS, first=4095),
            residual_rows(d, "resid_post.3", ROWS, first=4_294_967_295),
            residual_rows(d, "resid_post.3", ROWS, capture_id=12345),
        ]
        await tap.send_rows(*bad)
        good = residual_rows(d, "resid_post.3", ROWS[:3])
        await tap.send_rows(good, good, residual_rows(d, "resid_post.3", ROWS[3:], first=3, last=True))
        got = await reading
        await tap.send_rows(residual_rows(d, "resid_post.3", ROWS, first=10))
        await quiet_request(tap, 2)
        after = (await policies(channel)).taps[0].errors
        assert sidecar.taps.evidence.captures.late == 1
    assert [(rows.first_position, rows.row_count) for rows in got] == [(0, 3), (3, 2)]
    # The bad ones and the one sent twice; what comes after the end is nobody's fault.
    assert after - before == len(bad) + 1


async def test_what_cannot_be_read_is_refused_with_a_reason(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await quiet_request(tap)
        await quiet_request(tap, 2)
        unknown = await refusal(read(channel, "nobody"))
        ambiguous = await refusal(read(channel, "req-"))
        overwritten = asyncio.create_task(refusal(read(channel)))
        await tap.answer(ROWS[:0])
        refused = [unknown, ambiguous, await overwritten]
        off = await connect(channel, hello("tap-2", memory=TapMemory(buffer_bytes=1)))
        await off.send(off.frame([Rows(5, 0, (0,))], begins=[begin(5)]))
        refused.append(await refusal(read(channel, "req-5")))
        dying = asyncio.create_task(refusal(read(channel)))
        directive = await tap.next_directive()
        await tap.send_rows(residual_rows(directive, "resid_post.3", ROWS))
        tap.drop()
        refused.append(await dying)
        refused.append(await refusal(read(channel)))
    assert [(reason, code.name) for reason, code, _ in refused] == [
        ("UNKNOWN_GENERATION", "NOT_FOUND"),
        ("AMBIGUOUS_ID", "INVALID_ARGUMENT"),
        ("ROWS_OVERWRITTEN", "FAILED_PRECONDITION"),
        ("RECORDER_OFF", "FAILED_PRECONDITION"),
        ("TAP_AWAY", "UNAVAILABLE"),
        ("TAP_AWAY", "UNAVAILABLE"),
    ]
    assert "recorder_mib" in refused[3][2]


async def test_a_tap_that_says_nothing_ends_the_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        monkeypatch.setattr(sidecar.taps.evidence.captures, "_idle_seconds", 0.05)
        tap = await connect(channel)
        await quiet_request(tap)
        reason, code, _ = await refusal(read(channel))
        # The rows that come after all are of no capture.
        await tap.answer(ROWS)
        await quiet_request(tap, 2)
    assert (reason, code) == ("CAPTURE_TIMED_OUT", grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_generations_of_a_session_that_is_gone_have_no_rows(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        await flag(await connect(channel))
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        await connect(channel)
        reason, code, _ = await refusal(read(channel))
    assert (reason, code) == ("ROWS_GONE", grpc.StatusCode.FAILED_PRECONDITION)


async def test_no_rows_of_a_generation_whose_content_a_policy_withholds(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await tap.send(tap.frame([Rows(1, 0, (0, 1), late=(0, 9))], begins=[begin(1)]))
        reason, code, _ = await refusal(read(channel))
    assert (reason, code) == ("CONTENT_WITHHELD", grpc.StatusCode.PERMISSION_DENIED)


async def test_captures_are_bounded_in_number_and_in_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "MOST_CAPTURES", 2)
    monkeypatch.setattr(capture, "MOST_WAITING_BYTES", 2 * ROWS.nbytes)
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        tap = await connect(channel)
        for handle in (1, 2, 3):
            await quiet_request(tap, handle)
        found = await sidecar.taps.captures.find((await record_of(channel, "req-1")).summary.generation_id)
        assert found is not None
        running = [sidecar.taps.evidence.captures.start(*found, HOOKS, follow=False) for _ in range(2)]
        third = await refusal(read(channel, "req-3"))
        directive = await tap.next_directive()
        for part in range(4):
            await tap.send_rows(residual_rows(directive, HOOKS[0], ROWS, first=5 * part))
        await quiet_request(tap, 4)
        taken = [await anext(running[0]), await anext(running[0])]
        sidecar.taps.evidence.captures.stop(running[0])
        left = [rows async for rows in running[0]]
        reading = asyncio.create_task(read(channel, "req-3", HOOKS[:1]))
        await tap.next_directive()
        await tap.answer(ROWS)
        got = await reading
    assert third[:2] == ("TOO_MANY_CAPTURES", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert [rows.first_position for rows in taken] == [0, 5]
    assert running[0].overflowed
    assert left == []
    assert [rows.row_count for rows in got] == [5]
