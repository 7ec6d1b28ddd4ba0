"""Which cached prefixes are used, on vLLM's own scheduler."""

from __future__ import annotations

import hashlib
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lone_scheduler import BLOCK, RealScheduler
from watched_scheduler import CACHED, ENGINE, PROMPT, Known, Seeing, Watched, features

from monitor.rpc.prefix_chain import PrefixChain, prefix_root
from monitor.tap.scheduler.gate import GateStats, PrefixGate
from monitor.tap.scheduler.side import wrap_lookups


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
