"""What one engine's scheduler is still to be told of known prefixes. Bounded: a change replaces the one before it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Final

from monitor.sidecar.prefix.states import PrefixKey, PrefixStates

MOST_WAITING: Final = 65_536
"""Changes that wait for a reader; beyond them it is told everything anew."""


def known_among(keys: list[PrefixKey], namespaces: frozenset[bytes]) -> list[bytes]:
    """Hashes of prefixes of prompts that all `namespaces` know. In any thread."""
    prompts = Counter(key.prefix_hash for key in keys if not key.responses and key.namespace in namespaces)
    return [prefix_hash for prefix_hash, knowing in prompts.items() if knowing == len(namespaces)]


class PrefixFeed:
    """Gathers changes wherever frames are judged; the event loop takes them.

    A prefix counts as known when all of `namespaces` know it: the ranks of a pipeline each judge a part of the model.
    """

    def __init__(self, states: PrefixStates, most_waiting: int = MOST_WAITING) -> None:
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._states = states
        self._most_waiting = most_waiting
        self._namespaces: frozenset[bytes] = frozenset()
        # True: added. Guards `_waiting` and the two flags.
        self._lock = threading.Lock()
        self._waiting: dict[bytes, bool] = {}
        self._outdated = True
        self._woken = False

    def outdate(self) -> None:
        """Everything is to be told anew; from any thread."""
        with self._lock:
            self._outdated = True
            self._waiting.clear()
            self._wake()

    def begin(self, namespaces: frozenset[bytes]) -> list[PrefixKey]:
        """All states as of now, for `known_among`; from now on changes gather. Between frames."""
        with self._lock:
            self._namespaces = namespaces
            self._waiting.clear()
        return self._states.keys() if namespaces else []

    def take(self) -> tuple[list[bytes], list[bytes]] | None:
        """What was added and what removed since the last time; None when `begin` is due. In the event loop."""
        with self._lock:
            self._woken = False
            self.changed.clear()
            outdated, self._outdated = self._outdated, False
            if outdated:
                return None
            waiting, self._waiting = self._waiting, {}
        added = [prefix_hash for prefix_hash, known in waiting.items() if known]
        return added, [prefix_hash for prefix_hash, known in waiting.items() if not known]

    def on_added(self, namespace: bytes, prefix_hash: bytes) -> None:
        """Between frames, as `on_removed`."""
        if namespace not in self._namespaces:
            return
        others = self._namespaces - {namespace}
        if all(PrefixKey(other, prefix_hash, 0) in self._states for other in others):
            self._note(prefix_hash, known=True)

    def on_removed(self, namespace: bytes, prefix_hash: bytes) -> None:
        if namespace in self._namespaces:
            self._note(prefix_hash, known=False)

    def _note(self, prefix_hash: bytes, *, known: bool) -> None:
        with self._lock:
            if self._outdated:
                return
            self._waiting[prefix_hash] = known
            if len(self._waiting) > self._most_waiting:
                self._outdated = True
                self._waiting.clear()
            self._wake()

    def _wake(self) -> None:
        """Holds the lock."""
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self.changed.set)
