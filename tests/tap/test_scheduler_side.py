"""The plugin beside vLLM's own scheduler: labels of requests, and cached prefixes that may or may not be used."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lone_scheduler import BLOCK, RealScheduler

from monitor.rpc.prefix_chain import PrefixChain, prefix_root
from monitor.tap import plugin
from monitor.tap.scheduler.gate import GateStats, PrefixGate
from monitor.tap.scheduler.labels import new_request
from monitor.tap.scheduler.side import wrap_lookups, wrap_schedule
from monitor.tap.tap import DETACH_AFTER_ERRORS
from monitor.v1 import engine_pb2

ENGINE = engine_pb2.EngineInfo(model="m", dtype="float32", prefix_block_size=BLOCK)
PROMPT = list(range(3, 70))  # 67 tokens: 4 full blocks.
CACHED = 64


class Known(set[bytes]):
    """Prefixes that a sidecar knows."""

    active = True
    lost = False


class Watched(RealScheduler):
    """A scheduler with a gate in front of its cache."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.known = Known()
        self.gate = PrefixGate(self.known, ENGINE, BLOCK)
        self.labels = wrap_schedule(self.scheduler)
        self.lookups = wrap_lookups(self.scheduler, self.gate)

    def knows(self, prompt: list[int], salt: bytes = b"", adapter: str = "", keys: Any = ()) -> list[bytes]:
        """Hashes of a prompt's blocks, as the sidecar names them."""
        return PrefixChain(prefix_root(ENGINE, adapter, salt), BLOCK, keys).extend(np.array(prompt))


def wrapped_methods(engine: RealScheduler) -> list[str]:
    """Methods that an instance attribute hides."""
    return [
        name
        for holder in (engine.scheduler, engine.scheduler.kv_cache_manager)
        for name in vars(holder)
        if callable(getattr(type(holder), name, None))
    ]


@pytest.fixture
def registered() -> Iterator[None]:
    """The plugin in this process, taken out afterwards."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    init, init_device = Scheduler.__init__, WorkerWrapperBase.init_device
    plugin.register()
    yield
    Scheduler.__init__, WorkerWrapperBase.init_device = init, init_device


@pytest.mark.usefixtures("registered")
def test_without_configuration_the_scheduler_keeps_its_own_methods() -> None:
    engine = RealScheduler()
    engine.add("a", PROMPT, cache_salt="pepper")
    (new,) = engine.step().scheduled_new_reqs
    assert not hasattr(new, "featurewatch")
    assert wrapped_methods(engine) == []


@pytest.mark.usefixtures("registered")
def test_a_configured_scheduler_follows_the_sidecar_until_it_shuts_down() -> None:
    engine = RealScheduler({"sidecar": "unix:/nowhere/s.sock", "hook_points": ["resid_post.1"]})
    assert wrapped_methods(engine) == [
        "schedule",
        "shutdown",
        "get_computed_blocks",
        "get_computed_blocks_for_connector",
    ]
    engine.add("a", PROMPT)
    assert engine.run() == {"a": 0}
    engine.add("b", PROMPT)
    assert engine.run() == {"b": CACHED}, "nobody there to ask"
    engine.scheduler.shutdown()


@pytest.mark.usefixtures("registered")
def test_without_a_prefix_cache_requests_are_labelled_and_nothing_is_looked_up() -> None:
    engine = RealScheduler({"sidecar": "unix:/nowhere/s.sock", "hook_points": ["resid_post.1"]}, prefix_caching=False)
    engine.add("a", PROMPT, cache_salt="pepper")
    (new,) = engine.step().scheduled_new_reqs
    assert new_request(new).cache_salt_sha256
    assert wrapped_methods(engine) == ["schedule"]


def test_workers_get_the_hash_of_the_salt_and_never_the_salt() -> None:
    engine = Watched()
    engine.add("salted", PROMPT, cache_salt="pepper-and-salt")
    engine.add("plain", PROMPT)
    salted, plain = pickle.loads(pickle.dumps(engine.step())).scheduled_new_reqs
    assert new_request(salted).cache_salt_sha256 == hashlib.sha256(b"pepper-and-salt").digest()
    assert new_request(plain).cache_salt_sha256 == b""
    assert b"pepper-and-salt" not in pickle.dumps(salted)


def features(*places: tuple[int, str]) -> list[Any]:
    from vllm.multimodal.inputs import MultiModalFeatureSpec, MultiModalKwargsItem, PlaceholderRange

    return [
        MultiModalFeatureSpec(
            data=MultiModalKwargsItem.dummy(),
            modality="image",
            identifier=name,
            mm_position=PlaceholderRange(offset=offset, length=8),
        )
        for offset, name in places
    ]


class Seeing(Watched):
    """One that also serves images."""

    def __init__(self) -> None:
        from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

        super().__init__()
        self.scheduler.max_num_encoder_input_tokens = 100
        self.scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=100)


def test_workers_get_the_names_of_images_also_where_their_data_was_left_out() -> None:
    engine = Seeing()
    engine.known.active = False
    expected = tuple((at, hashlib.sha256(name).digest()) for at, name in ((4, b"cat"), (40, b"dog")))
    for name in ("first", "second"):
        engine.add(name, PROMPT, mm_features=features((4, "cat"), (40, "dog")))
        (new,) = engine.step().scheduled_new_reqs
        assert new_request(new).content_keys == expected
        del new.featurewatch
        assert new_request(new).content_keys == expected, "a scheduler without the plugin"
        engine.run()
    assert [feature.data for feature in new.mm_features] == [None, None], "all of it came from the cache"


def test_a_prefix_without_state_is_computed_again_and_the_statistics_do_not_count_the_lookup() -> None:
    engine = Watched()
    engine.add("a", PROMPT)
    assert engine.run() == {"a": 0}
    engine.add("b", PROMPT)
    assert engine.run() == {"b": 0}
    assert (engine.lookups_counted, engine.tokens_hit) == (1, 0), "only the first one's"
    assert (engine.gate.stats.reread, engine.gate.stats.reread_tokens, engine.gate.stats.known) == (1, CACHED, 0)


def test_a_prefix_with_state_is_used() -> None:
    engine = Watched()
    engine.add("a", PROMPT)
    engine.run()
    engine.known.update(engine.knows(PROMPT))
    engine.add("b", PROMPT)
    engine.add("longer", [*PROMPT, *range(100, 140)])
    assert engine.run() == {"b": CACHED, "longer": CACHED}
    assert (engine.gate.stats.known, engine.gate.stats.reread) == (2, 0)
    assert (engine.lookups_counted, engine.tokens_hit) == (3, 2 * CACHED)


@pytest.mark.parametrize("known_blocks", [(1,), (3,), (1, 3), (1, 2)])
def test_a_prefix_is_used_up_to_the_last_boundary_with_state(known_blocks: tuple[int, ...]) -> None:
    engine = Watched()
    engine.add("a", PROMPT)
    engine.run()
    engine.known.update(engine.knows(PROMPT)[blocks - 1] for blocks in known_blocks)
    engine.add("b", PROMPT)
    used = known_blocks[-1] * BLOCK
    assert engine.run() == {"b": used}
    assert (engine.gate.stats.shortened, engine.gate.stats.reread_tokens) == (1, CACHED - used)
    assert (engine.lookups_counted, engine.tokens_hit) == (2, used)
    engine.add("c", PROMPT)
    assert engine.run() == {"c": used}, "the cache is as it was"


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_requests_use_what_a_plain_scheduler_would_as_far_as_it_is_known(data: st.DataObject) -> None:
    """Prompts are cut from one another, and any boundaries are known. Nothing is evicted: blocks that are computed
    again take room beside the cached ones, so that the two would not lose the same."""
    plain, watched = RealScheduler(blocks=300), Watched(blocks=300)
    trunk = [int(token) for token in np.random.default_rng(0).integers(3, 9, 120)]
    for index in range(data.draw(st.integers(2, 6), "requests")):
        shared = data.draw(st.integers(0, 100), "shared")
        prompt = [*trunk[:shared], *(1000 + index for _ in range(data.draw(st.integers(1, 40), "own")))]
        names = watched.knows(prompt)
        known = data.draw(st.sets(st.integers(1, max(len(names), 1))), "known")
        watched.known.clear()
        watched.known.update(names[blocks - 1] for blocks in known if blocks <= len(names))
        for engine in (plain, watched):
            engine.add("request", prompt, max_tokens=2)
        (hit,), (used,) = plain.run().values(), watched.run().values()
        assert used == max((blocks * BLOCK for blocks in known if blocks * BLOCK <= hit), default=0)
    assert watched.lookups.errors == watched.labels.errors == 0
    stats = watched.gate.stats
    assert stats.reread_tokens == plain.tokens_hit - watched.tokens_hit


def test_a_boundary_at_which_no_hit_can_end_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in models whose kinds of layers keep blocks of different sizes."""
    engine = Watched()
    engine.add("a", PROMPT)
    engine.run()
    engine.known.update(engine.knows(PROMPT)[:3])
    coordinator = engine.scheduler.kv_cache_manager.coordinator
    search = coordinator.find_longest_cache_hit
    monkeypatch.setattr(
        coordinator, "find_longest_cache_hit", lambda hashes, longest: search(hashes, longest // 32 * 32)
    )
    engine.add("b", PROMPT)
    assert engine.run() == {"b": 0}
    engine.known.difference_update(engine.knows(PROMPT)[2:])
    engine.add("c", PROMPT)
    assert engine.run() == {"c": 32}
    assert engine.lookups.errors == 0


@pytest.mark.parametrize(("known_blocks", "used"), [(0, 0), (2, 2 * BLOCK), (4, CACHED)])
def test_a_look_up_whose_groups_differ_is_asked_about_too(known_blocks: int, used: int) -> None:
    """Hybrid models with a KV connector, whose look-up is one of its own."""
    engine = Watched()
    engine.add("a", PROMPT)
    engine.run()
    manager = engine.scheduler.kv_cache_manager
    engine.lookups.detach()
    request = engine.add("b", PROMPT)
    blocks, tokens, _ = manager.get_computed_blocks(request)
    assert tokens == CACHED
    manager.get_computed_blocks_for_connector = lambda _: (blocks, tokens, 0, True)
    wrap_lookups(engine.scheduler, engine.gate)
    engine.known.update(engine.knows(PROMPT)[:known_blocks])
    found = manager.get_computed_blocks_for_connector(request)
    assert found[1:] == (used, 0, used == CACHED)
    assert len(found[0].blocks[0]) * BLOCK == used
    assert request.skip_reading_prefix_cache is (used == 0)


def test_a_request_without_a_hit_is_not_asked_about() -> None:
    engine = Watched()
    engine.known.__contains__ = MagicMock(side_effect=AssertionError)  # type: ignore[method-assign]
    engine.add("a", PROMPT)
    engine.add("other", PROMPT[::-1])
    engine.run()
    assert engine.lookups.errors == 0
    assert engine.gate.stats == GateStats()


def test_state_under_another_salt_or_adapter_or_image_is_not_state_of_this_prefix() -> None:
    from vllm.lora.request import LoRARequest

    engine = Seeing()
    salt = hashlib.sha256(b"pepper").digest()
    lora = LoRARequest("poet", 1, "/nowhere")
    image = {"mm_features": features((4, "cat"))}
    keys = ((4, hashlib.sha256(b"cat").digest()),)
    names: list[tuple[dict[str, Any], list[bytes]]] = [
        ({}, engine.knows(PROMPT)),
        ({"cache_salt": "pepper"}, engine.knows(PROMPT, salt=salt)),
        ({"lora_request": lora}, engine.knows(PROMPT, adapter="poet")),
        (image, engine.knows(PROMPT, keys=keys)),
    ]
    for fields, _ in names:
        engine.add("first", PROMPT, **fields)
        assert engine.run() == {"first": 0}
    for index, (fields, own) in enumerate(names):
        engine.known.clear()
        engine.known.update(*(other for place, (_, other) in enumerate(names) if place != index))
        engine.add("again", PROMPT, **fields)
        assert engine.run() == {"again": 0}, fields
        engine.known.update(own)
        engine.add("known", PROMPT, **fields)
        assert engine.run() == {"known": CACHED}, fields


def test_while_the_sidecar_is_away_hits_are_used_and_counted_once_per_request() -> None:
    engine = Watched()
    engine.known.active, engine.known.lost = False, True
    for name in ("a", "b"):
        engine.add(name, PROMPT)
        cached = engine.run()
    assert cached == {"b": CACHED}
    assert engine.gate.stats.unchecked == 1


def test_a_request_that_waits_for_memory_is_asked_about_anew() -> None:
    """It was refused when it was looked up first; by the time there is room, the state is known."""
    engine = Watched(blocks=14)
    engine.add("a", PROMPT)
    engine.run()
    engine.add("large", list(range(200, 350)), max_tokens=8)
    engine.step()
    waiting = engine.add("b", PROMPT)
    engine.step()
    assert waiting.num_computed_tokens == 0
    assert engine.gate.stats.reread == 1
    engine.known.update(engine.knows(PROMPT))
    assert engine.run()["b"] > 0, "what the large one left of the cached blocks"
    assert (engine.gate.stats.reread, engine.gate.stats.known) == (1, 1)
    assert waiting.skip_reading_prefix_cache is False


def test_a_request_that_asks_to_skip_the_cache_skips_it() -> None:
    engine = Watched()
    engine.add("a", PROMPT)
    engine.run()
    engine.known.update(engine.knows(PROMPT))
    request = engine.add("b", PROMPT)
    request.skip_reading_prefix_cache = True
    assert engine.run() == {"b": 0}
    assert request.skip_reading_prefix_cache is True


def test_a_preempted_request_that_was_observed_takes_its_own_blocks_back() -> None:
    engine = Watched()
    request = engine.add("a", PROMPT, max_tokens=40)
    for _ in range(20):
        engine.step()
    assert engine.scheduler.reset_prefix_cache() is False
    engine.scheduler.running.remove(request)
    engine.scheduler._preempt_request(request, 0.0)
    resumed = engine.step()
    assert resumed.num_scheduled_tokens == {"a": request.num_tokens - 1 - 80}
    assert engine.gate.stats.reread == 0


class Broken(PrefixGate):
    def usable(self, request: Any, tokens: int) -> int:
        raise RuntimeError("broken")


def test_a_gate_that_fails_lets_hits_pass_and_leaves_after_repeated_failure() -> None:
    engine = RealScheduler()
    wrap_schedule(engine.scheduler)
    lookups = wrap_lookups(engine.scheduler, Broken(Known(), ENGINE, BLOCK))
    engine.add("first", PROMPT)
    engine.run()
    for turn in range(DETACH_AFTER_ERRORS + 1):
        assert lookups.errors == turn
        assert ("get_computed_blocks" in wrapped_methods(engine)) is (turn < DETACH_AFTER_ERRORS)
        engine.add("again", PROMPT)
        assert engine.run() == {"again": CACHED}
        if turn == DETACH_AFTER_ERRORS:
            break
    assert lookups.errors == DETACH_AFTER_ERRORS
    assert wrapped_methods(engine) == ["schedule"], "labels go on"


def test_labels_that_fail_are_counted_and_the_step_is_scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Watched()
    engine.add("a", PROMPT)
    monkeypatch.setattr("monitor.tap.scheduler.side.labels_of", MagicMock(side_effect=RuntimeError("broken")))
    (new,) = engine.step().scheduled_new_reqs
    assert engine.labels.errors == 1
    assert new_request(new).content_keys == ()


def connect(engine: RealScheduler, tokens: int) -> None:
    """A KV connector that offers `tokens` more tokens of each prompt."""
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1

    connector = MagicMock(spec=KVConnectorBase_V1)
    connector.get_num_new_matched_tokens.return_value = (tokens, False)
    connector.supports_divergent_local_hybrid_hits = True
    engine.scheduler.connector = connector


@pytest.mark.parametrize(
    ("known_blocks", "cached"),
    [((), 0), ((1,), BLOCK), ((2,), 0), ((1, 2), 2 * BLOCK)],
    ids=["nothing", "the local part", "only the end", "both"],
)
def test_what_a_connector_offers_is_used_up_to_a_known_boundary(known_blocks: tuple[int, ...], cached: int) -> None:
    """One block lies in the local cache, the connector has one more."""
    engine = RealScheduler()
    engine.add("a", PROMPT[: BLOCK + 1])
    engine.run()
    connect(engine, BLOCK)
    hashes = PrefixChain(prefix_root(ENGINE), BLOCK).extend(np.array(PROMPT))
    lookups = wrap_lookups(
        engine.scheduler, PrefixGate(Known(hashes[blocks - 1] for blocks in known_blocks), ENGINE, BLOCK)
    )
    engine.add("b", PROMPT)
    assert engine.scheduler.schedule().scheduled_new_reqs[0].num_computed_tokens == cached
    assert lookups.errors == 0
