"""What goes down a tap's stream."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.sidecar.downlink import MOST_WAITING, Downlink
from monitor.v1.tap_pb2 import CaptureRows, Directive, StreamResponse, WatchPlan


def directive(number: int) -> Directive:
    return Directive(handle=number, capture=CaptureRows(capture_id=number))


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(1, 50), st.just("ack"), st.just("pause")), max_size=40))
def test_directives_keep_their_order_and_the_last_acknowledgement_is_written(script: list[int | str]) -> None:
    async def play() -> tuple[list[int], list[int], int]:
        written: list[StreamResponse] = []

        async def write(response: StreamResponse) -> None:
            await asyncio.sleep(0)
            written.append(response)

        downlink, seq = Downlink(), 0
        task = asyncio.create_task(downlink.run(write))
        for step in script:
            if step == "ack":
                seq += 1
                downlink.acknowledge(seq)
            elif step == "pause":
                await asyncio.sleep(0)
            else:
                assert downlink.direct(directive(int(step)))
        downlink.close()
        await task
        directives = [r.directive.handle for r in written if r.WhichOneof("message") == "directive"]
        return directives, [r.ack.seq for r in written if r.WhichOneof("message") == "ack"], seq

    directives, acks, seq = asyncio.run(play())
    assert directives == [step for step in script if isinstance(step, int)]
    assert acks == sorted(set(acks))
    assert acks[-1:] == ([seq] if seq else [])


async def test_a_tap_that_does_not_read_holds_up_nothing_and_holds_no_more_than_the_bound() -> None:
    stuck = asyncio.Event()

    async def write(_response: StreamResponse) -> None:
        await stuck.wait()

    downlink = Downlink()
    task = asyncio.create_task(downlink.run(write))
    assert downlink.direct(directive(1))
    await asyncio.sleep(0)
    accepted = [downlink.direct(directive(n)) for n in range(MOST_WAITING + 10)]
    assert accepted.count(True) == MOST_WAITING
    task.cancel()
    await asyncio.wait([task])
    assert not downlink.direct(directive(1))


async def test_after_a_failed_write_directives_are_refused() -> None:
    async def write(_response: StreamResponse) -> None:
        raise ConnectionError("gone")

    downlink = Downlink()
    task = asyncio.create_task(downlink.run(write))
    downlink.acknowledge(1)
    with pytest.raises(ConnectionError):
        await task
    assert not downlink.direct(directive(1))


async def test_a_plan_goes_before_what_else_waits_and_none_goes_after_a_later_one() -> None:
    written: list[StreamResponse] = []

    async def write(response: StreamResponse) -> None:
        written.append(response)

    downlink = Downlink(3)
    for version in (3, 5, 4):
        downlink.watch(WatchPlan(version=version))
    assert downlink.direct(directive(1))
    task = asyncio.create_task(downlink.run(write))
    await asyncio.sleep(0)
    # It was made before the one that is sent already, and comes late.
    downlink.watch(WatchPlan(version=4))
    downlink.watch(WatchPlan(version=6))
    downlink.close()
    await task
    assert [response.WhichOneof("message") for response in written] == ["watch_plan", "directive", "watch_plan"]
    assert [response.watch_plan.version for response in written if response.HasField("watch_plan")] == [5, 6]
