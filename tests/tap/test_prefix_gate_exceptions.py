"""Cached prefixes when the sidecar is away, requests wait, skip or are preempted, or the gate fails."""

from __future__ import annotations

from typing import Any

from support.lone_scheduler import BLOCK, RealScheduler
from watched_scheduler import CACHED, ENGINE, PROMPT, Known, Watched, wrapped_methods

from monitor.tap.scheduler.gate import PrefixGate
from monitor.tap.scheduler.side import wrap_lookups, wrap_schedule
from monitor.tap.tap import DETACH_AFTER_ERRORS


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
