"""Whatever touches the state of requests takes turns."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from monitor.sidecar.turns import Turns


async def test_short_work_runs_at_once_on_the_loop() -> None:
    turns = Turns()
    assert await turns.run(threading.get_ident, short=True) == threading.get_ident()
    assert await turns.run(threading.get_ident) != threading.get_ident()
    turns.close()


async def test_short_work_waits_behind_what_was_asked_for_before() -> None:
    turns, order, may_go = Turns(), [], threading.Event()

    def slow() -> None:
        may_go.wait()
        order.append("slow")

    first = asyncio.create_task(turns.run(slow))
    await asyncio.sleep(0)
    second = asyncio.create_task(turns.run(lambda: order.append("short"), short=True))
    await asyncio.sleep(0.01)
    assert order == []
    may_go.set()
    await asyncio.gather(first, second)
    assert order == ["slow", "short"]
    turns.close()


async def test_short_work_does_not_overtake_an_answer_that_nobody_has_taken_yet() -> None:
    turns, order = Turns(), []

    async def ask_and_publish() -> None:
        order.append(await turns.run(lambda: "older"))

    first = asyncio.create_task(ask_and_publish())
    await asyncio.sleep(0)
    # The thread is done with it, the loop has not come to it.
    turns.submit(lambda: None).result()
    order.append(await turns.run(lambda: "newer", short=True))
    await first
    assert order == ["older", "newer"]
    turns.close()


async def test_two_never_run_at_the_same_time() -> None:
    turns, inside, most = Turns(), 0, 0

    def work() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(200):
            pass
        inside -= 1

    asked: list[Future[None]] = []

    def from_another_thread() -> None:
        asked.extend(turns.submit(work) for _ in range(300))

    thread = threading.Thread(target=from_another_thread)
    thread.start()
    for number in range(300):
        await turns.run(work, short=number % 3 > 0)
    thread.join()
    for future in asked:
        future.result()
    assert most == 1
    turns.close()


async def test_an_error_gives_the_turn_back() -> None:
    turns = Turns()
    for short in (True, False, True):
        with pytest.raises(ZeroDivisionError):
            await turns.run(lambda: 1 / 0, short=short)
    assert await turns.run(threading.get_ident, short=True) == threading.get_ident()
    turns.close()
    with pytest.raises(RuntimeError):
        await turns.run(lambda: None)
