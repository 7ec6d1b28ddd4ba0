"""The store of prefixes: bounded, the least recently used first, and honest about what it holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.sidecar.prefix.feed import known_among
from monitor.sidecar.prefix.states import (
    ENTRY_BYTES,
    PrefixFiring,
    PrefixKey,
    PrefixState,
    PrefixStates,
    firings_in_order,
)

SPACE = b"n" * 32


def key(name: int, responses: int = 0, namespace: bytes = SPACE) -> PrefixKey:
    return PrefixKey(namespace, name.to_bytes(16, "little"), responses)


def state(size: int = 100, last: PrefixFiring | None = None, shorter: PrefixKey | None = None) -> PrefixState:
    return PrefixState(bytes(size), last, shorter)


@dataclass
class Told:
    known: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)

    def on_added(self, namespace: bytes, prefix_hash: bytes) -> None:
        self.known[namespace, prefix_hash] += 1

    def on_removed(self, namespace: bytes, prefix_hash: bytes) -> None:
        self.known[namespace, prefix_hash] -= 1


def test_the_longest_known_prefix_is_found() -> None:
    states = PrefixStates(1 << 20)
    one, two = state(), state()
    states.add(key(1), one)
    states.add(key(2), two)
    assert states.find([key(1), key(2)]) == (1, two)
    assert states.find([key(1), key(2), key(3)]) == (1, two)
    assert states.find([key(1), key(3)]) == (0, one)
    assert states.find([key(3)]) is None
    assert states.find([]) is None
    found = states.stats()
    assert (found.hits, found.partial, found.misses, found.evictions, found.entries) == (1, 2, 2, 0, 2)


def test_of_one_sequence_the_longest_goes_first_and_what_was_used_last_goes_last() -> None:
    size = ENTRY_BYTES + 100
    states = PrefixStates(4 * size)
    for name in (1, 2, 3):
        states.add(key(name), state(shorter=key(name - 1) if name > 1 else None))
    states.touch(key(3))
    states.add(key(10), state())
    states.add(key(11), state())
    assert [key(name) in states for name in (1, 2, 3, 10, 11)] == [True, True, False, True, True]
    # A look-up is a use, of all that is shorter too.
    states.find([key(1), key(2)])
    states.add(key(12), state())
    states.add(key(13), state())
    assert [key(name) in states for name in (1, 2, 10, 11, 12, 13)] == [True, True, False, False, True, True]


def test_an_entry_that_never_fits_is_not_kept() -> None:
    states = PrefixStates(1000)
    states.add(key(1), state(size=2000))
    assert (states.stats().entries, states.stats().nbytes, states.stats().evictions) == (0, 0, 1)


def test_a_store_without_memory_keeps_nothing() -> None:
    states = PrefixStates(0)
    states.add(key(1), state())
    assert not states.enabled
    assert (states.stats().entries, states.stats().evictions) == (0, 0)


def test_the_latest_state_of_a_prefix_counts() -> None:
    states, told = PrefixStates(1 << 20), Told()
    states.add_listener(told)
    firing = PrefixFiring(1, 0, (b"reading",), None)
    states.add(key(1), state(last=firing))
    latest = state(size=500)
    states.add(key(1), latest)
    assert states.find([key(1)]) == (0, latest)
    assert states.stats().nbytes == ENTRY_BYTES + 500
    assert firing.references == 0
    assert told.known.total() == 1


def test_listeners_hear_of_prompts_only_and_know_what_is_there() -> None:
    states, told = PrefixStates(2 * (ENTRY_BYTES + 100)), Told()
    states.add_listener(told)
    states.add(key(1), state())
    states.add(key(2, responses=3), state())
    states.add(key(3, namespace=b"other"), state())
    assert +told.known == Counter({(b"other", key(3).prefix_hash): 1})
    assert known_among(states.keys(), frozenset({SPACE})) == []
    assert known_among(states.keys(), frozenset({b"other"})) == [key(3).prefix_hash]


def test_firings_come_in_the_order_in_which_rules_fired() -> None:
    first = PrefixFiring(3, 0, (), None)
    second = PrefixFiring(5, 1, (), first)
    assert firings_in_order(second) == [first, second]
    assert firings_in_order(None) == []


STEP = st.tuples(st.integers(0, 6), st.integers(0, 12), st.integers(0, 3))


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=60), st.integers(0, 6000))
def test_bytes_and_listeners_agree_with_what_is_there(steps: list[tuple[int, int, int]], max_bytes: int) -> None:
    """Sequences branch off at random; some blocks fire. A firing counts once, however many entries share it."""
    states, told = PrefixStates(max_bytes), Told()
    states.add_listener(told)
    kept: dict[PrefixKey, PrefixState] = {}
    heads: list[tuple[PrefixKey | None, PrefixFiring | None]] = [(None, None)]
    for number, (branch, size, fired) in enumerate(steps):
        shorter, last = heads[branch % len(heads)]
        for _ in range(fired):
            last = PrefixFiring(number, 0, (bytes(10 * size),), last)
        name = key(number, responses=int(size == 5))
        if size == 7 and shorter is not None:
            # Computed once more: what is kept of it is replaced.
            name, shorter = shorter, kept[shorter].shorter
        kept[name] = state(size * 40, last, shorter)
        states.add(name, kept[name])
        heads.append((name, last))
        if size % 3 == 0:
            states.find([entry for entry, _ in heads[1:4] if entry is not None])
        there = {name: one for name, one in kept.items() if name in states}
        firings = {id(firing): firing for one in there.values() for firing in firings_in_order(one.last_firing)}
        expected = sum(ENTRY_BYTES + len(one.snapshot) for one in there.values())
        expected += sum(firing.nbytes for firing in firings.values())
        found = states.stats()
        assert found.nbytes == expected <= max_bytes
        assert found.entries == len(there)
        assert {name.prefix_hash for name in there if not name.responses} == {
            *known_among(states.keys(), frozenset({SPACE}))
        }
        assert +told.known == Counter((name.namespace, name.prefix_hash) for name in there if not name.responses)
