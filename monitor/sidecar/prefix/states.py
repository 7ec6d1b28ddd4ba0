"""Detector state at block boundaries of token prefixes, so that what the engine takes from its prefix cache is judged.

Used between frames only (`monitor.sidecar.turns`); `stats` may be read from any thread. Bounded by bytes: the least
recently used prefix
goes first, of one sequence its longest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

# Python objects of an entry and of a firing besides their bytes, measured with tracemalloc (CPython 3.11 to 3.13).
ENTRY_BYTES: Final = 400
FIRING_BYTES: Final = 250


class PrefixKey(NamedTuple):
    """Names a prefix.

    Attributes:
        namespace: what judges it (`monitor.sidecar.prefix.namespace`).
        prefix_hash: which tokens, on which model (`monitor.rpc.prefix_chain`).
        responses: how many of its last positions were judged as response; 0 where no detector tells phases apart.
    """

    namespace: bytes
    prefix_hash: bytes
    responses: int


@dataclass(slots=True, eq=False)
class PrefixFiring:
    """A rule that fired within a prefix, linked to the firing before it: prefixes share their common part.

    Attributes:
        rule: index into `PolicySet.rules`.
        readings: serialised DetectorReadings.
        references: of the store: entries and later firings that hold this one.
    """

    position: int
    rule: int
    readings: tuple[bytes, ...]
    before: PrefixFiring | None
    references: int = 0

    @property
    def nbytes(self) -> int:
        return FIRING_BYTES + sum(len(reading) for reading in self.readings)


def firings_in_order(last: PrefixFiring | None) -> list[PrefixFiring]:
    """All firings up to `last`, the first one first."""
    found = []
    while last is not None:
        found.append(last)
        last = last.before
    return found[::-1]


@dataclass(frozen=True, slots=True, eq=False)
class PrefixState:
    """What a request is like after a prefix that was seen whole.

    Attributes:
        snapshot: state of detectors and rules, peaks included (`PolicyEngine.restore`).
        last_firing: the latest firing within the prefix.
        shorter: the key of the boundary before; None at the first.
    """

    snapshot: bytes
    last_firing: PrefixFiring | None
    shorter: PrefixKey | None


@dataclass(frozen=True)
class PrefixStats:
    """Counts since the start; `entries` and `nbytes` as of now.

    A look-up is a hit when the whole prefix is known, partial when a shorter boundary is, a miss when none is.
    """

    hits: int
    partial: int
    misses: int
    evictions: int
    entries: int
    nbytes: int
    max_bytes: int


class PrefixListener(Protocol):
    """Is told, between frames, which prefixes of prompts are known; must not raise and must not wait."""

    def on_added(self, namespace: bytes, prefix_hash: bytes) -> None: ...

    def on_removed(self, namespace: bytes, prefix_hash: bytes) -> None: ...


class PrefixStates:
    """The store, shared by all taps: where the keys are equal, so is the state."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` 0 keeps nothing."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[PrefixKey, PrefixState] = OrderedDict()
        self._listeners: list[PrefixListener] = []
        self._bytes = self._hits = self._partial = self._misses = self._evictions = 0

    @property
    def enabled(self) -> bool:
        return self._max_bytes > 0

    def __contains__(self, key: PrefixKey) -> bool:
        return key in self._entries

    def stats(self) -> PrefixStats:
        return PrefixStats(
            hits=self._hits,
            partial=self._partial,
            misses=self._misses,
            evictions=self._evictions,
            entries=len(self._entries),
            nbytes=self._bytes,
            max_bytes=self._max_bytes,
        )

    def find(self, keys: Sequence[PrefixKey]) -> tuple[int, PrefixState] | None:
        """The longest known of the prefixes of one sequence, given the shortest first, as (index, state)."""
        for index in range(len(keys) - 1, -1, -1):
            state = self._entries.get(keys[index])
            if state is not None:
                self._hits += index == len(keys) - 1
                self._partial += index < len(keys) - 1
                self.touch(keys[index])
                return index, state
        self._misses += 1
        return None

    def add(self, key: PrefixKey, state: PrefixState) -> None:
        """Keeps the state of a prefix, in the place of an older one: weights may have been exchanged since."""
        if not self.enabled:
            return
        self._hold(state.last_firing)
        self._bytes += ENTRY_BYTES + len(state.snapshot)
        before = self._entries.pop(key, None)
        self._entries[key] = state
        if before is None:
            self._tell_added(key)
        else:
            self._forget(before)
        while self._bytes > self._max_bytes:
            self._evict()

    def touch(self, key: PrefixKey | None) -> None:
        """Marks a prefix and all shorter ones of it as just used, the longest first: it will go before them."""
        while key is not None and (state := self._entries.get(key)) is not None:
            self._entries.move_to_end(key)
            key = state.shorter

    def keys(self) -> list[PrefixKey]:
        """Of all states: a copy, quick to take and slow to go through."""
        return [*self._entries]

    def add_listener(self, listener: PrefixListener) -> None:
        """From now on it is told of changes; what is there already are its `keys`."""
        self._listeners.append(listener)

    def _evict(self) -> None:
        key, state = self._entries.popitem(last=False)
        self._evictions += 1
        self._forget(state)
        if not key.responses:
            for listener in self._listeners:
                listener.on_removed(key.namespace, key.prefix_hash)

    def _forget(self, state: PrefixState) -> None:
        self._bytes -= ENTRY_BYTES + len(state.snapshot)
        self._release(state.last_firing)

    def _tell_added(self, key: PrefixKey) -> None:
        if not key.responses:
            for listener in self._listeners:
                listener.on_added(key.namespace, key.prefix_hash)

    def _hold(self, firing: PrefixFiring | None) -> None:
        """Counts a firing, and those before it, in when nothing here held it so far."""
        while firing is not None:
            firing.references += 1
            if firing.references > 1:
                return
            self._bytes += firing.nbytes
            firing = firing.before

    def _release(self, firing: PrefixFiring | None) -> None:
        while firing is not None:
            firing.references -= 1
            if firing.references:
                return
            self._bytes -= firing.nbytes
            firing = firing.before
