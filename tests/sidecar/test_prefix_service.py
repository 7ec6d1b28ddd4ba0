"""WatchPrefixes: what a scheduler is told of prefixes whose detector state is known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from fake_tap import FakeTap, Rows, begin, connect, end, hello
from hypothesis import given, settings
from hypothesis import strategies as st
from sidecar_kit import ENGINE, World, channel_to, running_sidecar

from monitor.rpc.prefix_chain import PrefixChain, prefix_root
from monitor.sidecar.prefix.feed import PrefixFeed, known_among
from monitor.sidecar.prefix.states import ENTRY_BYTES, PrefixKey, PrefixState, PrefixStates
from monitor.sidecar.server import Sidecar
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import WatchPrefixesRequest, WatchPrefixesResponse
from monitor.v1.tap_pb2_grpc import TapServiceStub

BLOCK = 4


def engine_like(**changes: Any) -> EngineInfo:
    engine = EngineInfo(prefix_block_size=BLOCK)
    engine.MergeFrom(EngineInfo.FromString(ENGINE.SerializeToString()))
    engine.MergeFrom(EngineInfo(**changes))
    return engine


CACHING = engine_like()


class Scheduler:
    """Keeps what it is told, as an engine's scheduler does."""

    def __init__(self, channel: grpc.aio.Channel, engine: EngineInfo = CACHING) -> None:
        self._call: Any = TapServiceStub(channel).WatchPrefixes(
            WatchPrefixesRequest(engine=engine), wait_for_ready=True
        )
        self.reread: bool | None = None
        self.known: set[bytes] = set()
        self.responses: list[WatchPrefixesResponse] = []

    async def read(self) -> WatchPrefixesResponse:
        response = await asyncio.wait_for(self._call.read(), 60)
        assert response is not grpc.aio.EOF
        self.responses.append(response)
        self.reread = response.reread
        self.known = set() if response.reset else self.known
        self.known |= set(response.added)
        self.known -= set(response.removed)
        return response

    async def until(self, known: set[bytes]) -> None:
        while self.known != known:
            await self.read()

    async def ended(self) -> bool:
        return await asyncio.wait_for(self._call.read(), 60) is grpc.aio.EOF

    def leave(self) -> None:
        self._call.cancel()


def say_reread(world: World, *policies: str) -> None:
    for name in policies:
        path = world.policies / f"{name}.yaml"
        path.write_text(path.read_text().replace("spec:\n", "spec:\n  onUnseen: reread\n"))


@pytest.fixture
async def sidecar(world: World) -> AsyncIterator[Sidecar]:
    say_reread(world, "loud")
    async with running_sidecar(world.config(tap_grace_seconds=0.05)) as sidecar:
        yield sidecar


@pytest.fixture
async def channel(world: World, sidecar: Sidecar) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(world.socket) as channel:
        yield channel


async def serve(tap: FakeTap, handle: int, tokens: Sequence[int]) -> None:
    """A prompt that is computed and judged whole."""
    await tap.send(
        tap.frame([Rows(handle, 0, tokens)], begins=[begin(handle, tokens)]), tap.frame(ends=[end(handle, len(tokens))])
    )


def names(tokens: Sequence[int], engine: EngineInfo = CACHING) -> set[bytes]:
    return set(PrefixChain(prefix_root(engine), engine.prefix_block_size).extend(np.array(tokens)))


async def test_a_scheduler_hears_of_prefixes_as_they_become_known(channel: grpc.aio.Channel) -> None:
    scheduler = Scheduler(channel)
    first = await scheduler.read()
    assert (first.reread, first.reset, len(first.added)) == (False, True, 0), "no tap, no policy that asks"
    tap = await connect(channel, hello(engine=CACHING))
    second = await scheduler.read()
    assert (second.reread, second.reset, len(second.added)) == (True, True, 0)
    await serve(tap, 1, range(10))
    await scheduler.until(names(range(10)))
    assert len(scheduler.known) == 2, "whole blocks"
    await serve(tap, 2, [*range(4), 9, 9, 9, 9])
    await scheduler.until(names(range(10)) | names([*range(4), 9, 9, 9, 9]))
    assert not any(response.reset for response in scheduler.responses[2:])
    late = Scheduler(channel)
    complete = await late.read()
    assert (complete.reread, complete.reset, set(complete.added)) == (True, True, scheduler.known)


async def test_nothing_is_told_where_no_policy_asks(world: World) -> None:
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        scheduler = Scheduler(channel)
        await scheduler.read()
        tap = await connect(channel, hello(engine=CACHING))
        again = await scheduler.read()
        assert (again.reread, again.reset) == (False, True)
        await serve(tap, 1, range(10))
        assert sidecar.taps.prefix_states.stats().entries == 2, "kept for restoring, and nobody's business"
        other = await connect(channel, hello("tap-2", engine=engine_like(data_parallel_rank=1)))
        assert len((await scheduler.read()).added) == 0
        other.drop()


async def test_engines_that_cut_prefixes_otherwise_do_not_take_each_others_for_theirs(
    channel: grpc.aio.Channel,
) -> None:
    """They are judged by the same policies, so both hear of both; the names differ."""
    larger = engine_like(prefix_block_size=5)
    schedulers = Scheduler(channel), Scheduler(channel, larger)
    await serve(await connect(channel, hello("a", CACHING)), 1, range(10))
    await serve(await connect(channel, hello("b", larger)), 1, range(20, 30))
    for scheduler in schedulers:
        await scheduler.until(names(range(10)) | names(range(20, 30), larger))
    assert not schedulers[0].known & (names(range(20, 30)) | names(range(10), larger))


async def test_equal_engines_share_what_is_known(channel: grpc.aio.Channel) -> None:
    replica = engine_like(data_parallel_rank=1)
    schedulers = Scheduler(channel), Scheduler(channel, replica)
    await connect(channel, hello("b", replica))
    await serve(await connect(channel, hello("a", CACHING)), 1, range(10))
    for scheduler in schedulers:
        await scheduler.until(names(range(10)))


async def test_the_ranks_of_a_pipeline_must_all_know_a_prefix(world: World) -> None:
    say_reread(world, "loud", "quiet")
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        scheduler = Scheduler(channel)
        last = engine_like(pipeline_parallel_rank=1)
        first_tap = await connect(channel, hello("a", CACHING, ["resid_post.3"]))
        last_tap = await connect(channel, hello("b", last, ["resid_post.5"]))
        await serve(first_tap, 1, range(8))
        await serve(first_tap, 2, range(20, 28))
        await serve(last_tap, 2, range(20, 28))
        await scheduler.until(names(range(20, 28)))
        await serve(last_tap, 1, range(8))
        await scheduler.until(names(range(20, 28)) | names(range(8)))


async def test_a_tap_that_is_gone_for_good_is_asked_for_nothing(channel: grpc.aio.Channel) -> None:
    scheduler = Scheduler(channel)
    tap = await connect(channel, hello(engine=CACHING))
    await serve(tap, 1, range(8))
    await scheduler.until(names(range(8)))
    tap.drop()
    response = await scheduler.read()
    assert (response.reread, response.reset, len(response.added)) == (False, True, 0)


async def test_a_scheduler_that_names_prefixes_otherwise_is_told_of_in_the_log(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        scheduler = Scheduler(channel, engine_like(kv_cache_dtype="fp8"))
        await scheduler.read()
        assert "otherwise" not in caplog.text
        await connect(channel, hello(engine=CACHING))
        assert not (await scheduler.read()).reread
    assert "names prefixes otherwise than tap tap-1" in caplog.text


async def test_calls_end_with_the_sidecar_and_feeds_with_their_calls(world: World) -> None:
    sidecar = Sidecar(world.config())
    await sidecar.start()
    try:
        async with channel_to(world.socket) as channel:
            leaving, staying = Scheduler(channel), Scheduler(channel)
            for scheduler in (leaving, staying):
                await scheduler.read()
            service = sidecar._tap_service._prefixes
            assert service.watchers == 2
            leaving.leave()
            while service.watchers > 1:
                await asyncio.sleep(0.001)
            stopping = asyncio.create_task(sidecar.stop())
            assert await staying.ended()
            await stopping
            assert service.watchers == 0
    finally:
        await asyncio.shield(stopping)


SPACES = st.sampled_from([b"n", b"m"])


class Store:
    """Prefix states and a feed on them, without threads."""

    def __init__(self, prefixes: int = 1000, **limits: int) -> None:
        self.states = PrefixStates(prefixes * ENTRY_BYTES)
        self.feed = PrefixFeed(self.states, **limits)
        self.states.add_listener(self.feed)
        self.told: set[bytes] = set()
        self.most = 0

    def add(self, name: int, namespace: bytes = b"n", responses: int = 0) -> None:
        self.states.add(PrefixKey(namespace, bytes([name]), responses), PrefixState(b"", None, None))

    def tell(self, *namespaces: bytes) -> bool:
        """As the service does; whether everything was told anew."""
        changes = self.feed.take()
        if changes is None:
            wanted = frozenset(namespaces)
            self.told = set(known_among(self.feed.begin(wanted), wanted))
            return True
        added, removed = changes
        assert not set(added) & set(removed)
        self.most = max(self.most, len(added) + len(removed))
        self.told = (self.told | set(added)) - set(removed)
        return False


async def test_what_comes_and_goes_between_two_readings_is_one_change() -> None:
    store = Store(prefixes=3)
    assert store.tell(b"n")
    for name in range(200):
        store.add(name)
    assert store.tell(b"n") is False
    assert store.told == {bytes([name]) for name in (197, 198, 199)}
    store.add(0)
    store.add(1, namespace=b"other")
    store.add(2, responses=1)
    assert store.tell(b"n") is False
    assert store.told == {bytes([0])}, "of the others two took its predecessors' places"


async def test_more_changes_than_may_wait_are_replaced_by_everything_anew() -> None:
    store = Store(most_waiting=5)
    store.tell(b"n")
    for name in range(5):
        store.add(name)
    assert store.tell(b"n") is False
    for name in range(5, 11):
        store.add(name)
    assert store.tell(b"n") is True
    assert store.told == {bytes([name]) for name in range(11)}
    store.add(50)
    assert store.tell(b"n") is False
    assert bytes([50]) in store.told


async def test_a_feed_wakes_its_reader_once_for_many_changes() -> None:
    store = Store()
    store.tell(b"n")
    for name in range(3):
        store.add(name)
    await asyncio.wait_for(store.feed.changed.wait(), 60)
    store.tell(b"n")
    await asyncio.sleep(0)
    assert not store.feed.changed.is_set()
    store.add(9)
    await asyncio.wait_for(store.feed.changed.wait(), 60)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["add", "add", "add", "tell", "outdate"]), st.integers(0, 11), SPACES)), SPACES
)
def test_what_was_told_is_what_is_known_whatever_happened_in_between(
    steps: list[tuple[str, int, bytes]], other: bytes
) -> None:
    """The store holds six prefixes, three changes may wait; some engines are pipelines, judged in two namespaces."""

    async def run() -> None:
        store = Store(prefixes=6, most_waiting=3)
        wanted = {b"n", other}
        for what, name, namespace in steps:
            if what == "add":
                store.add(name, namespace)
            elif what == "outdate":
                store.feed.outdate()
            else:
                store.tell(*wanted)
        store.tell(*wanted)
        assert store.feed.take() == ([], [])
        keys = store.states.keys()
        assert store.told == {
            key.prefix_hash for key in keys if all(PrefixKey(one, key.prefix_hash, 0) in keys for one in wanted)
        }

    asyncio.run(run())


async def test_what_changes_while_everything_is_told_anew_is_not_lost() -> None:
    """A policy's tap comes between the service's look at the taps and its look at the store."""
    store = Store()
    assert store.feed.take() is None
    store.feed.outdate()
    store.feed.begin(frozenset({b"old"}))
    assert store.feed.take() is None
