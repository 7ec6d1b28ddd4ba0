"""Which prefixes the live requests of one tap have, and how their state gets into the store and out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitor.rpc.prefix_chain import PrefixChain, prefix_root
from monitor.sidecar.prefix.request import RequestPrefix
from monitor.sidecar.prefix.states import PrefixFiring, PrefixKey, PrefixState, PrefixStates
from monitor.sidecar.request import LiveRequest
from monitor.v1.alerts_pb2 import DetectorReading
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import RequestBegin


@dataclass(frozen=True, slots=True)
class Boundary:
    """The end of a block within a run of rows: its state is to be kept after row `offset` of the run."""

    request: LiveRequest
    offset: int
    key: PrefixKey
    shorter: PrefixKey | None


class PrefixBook:
    """Keeps the state of requests at block boundaries and finds it again.

    Only what a cold run would have there is kept: a request with positions that no detector saw keeps nothing behind
    them, until it is restored to a later boundary.
    """

    def __init__(self, states: PrefixStates, engine: EngineInfo, namespace: bytes, *, tells_phases_apart: bool) -> None:
        self.namespace = namespace
        self._states = states
        self._engine = engine
        self._block_size = engine.prefix_block_size if states.enabled else 0
        self._tells_phases_apart = tells_phases_apart

    def open(self, begin: RequestBegin) -> RequestPrefix | None:
        """The books of a request; None where there is no prefix cache or no store."""
        if not self._block_size:
            return None
        root = prefix_root(self._engine, begin.adapter, begin.cache_salt_sha256)
        content = sorted((entry.position, entry.key) for entry in begin.content_keys)
        return RequestPrefix(PrefixChain(root, self._block_size, content))

    def boundaries(self, request: LiveRequest, first: int, count: int) -> Sequence[Boundary]:
        """Ends of blocks within `count` positions from `first` on, all of them seen; their state is to be kept."""
        prefix, size = request.prefix, self._block_size
        if prefix is None or (first + count) // size == first // size or not _is_as_cold(request, prefix):
            return ()
        found = []
        for end, key in self._take(request, prefix, first + count):
            if end > first:
                found.append(Boundary(request, end - 1 - first, key, prefix.key))
            prefix.key = key
        return found

    def keep(self, boundary: Boundary, snapshot: bytes) -> None:
        """Stores the state after a boundary; what fired up to there is in the request's books."""
        prefix = boundary.request.prefix
        if prefix is not None and prefix.healed >= 0:
            self._states.add(boundary.key, PrefixState(snapshot, prefix.last_firing, boundary.shorter))

    def add_firing(self, request: LiveRequest, position: int, rule: int, readings: Sequence[DetectorReading]) -> None:
        """A rule fired; called in the order of positions, and with `keep` in the order of rows."""
        prefix = request.prefix
        if prefix is not None:
            stored = tuple(reading.SerializeToString() for reading in readings)
            prefix.last_firing = PrefixFiring(position, rule, stored, prefix.last_firing)

    def spoil(self, request: LiveRequest) -> None:
        """What fired, or how tokens are classed, is not known: nothing is kept until it is restored once more."""
        if request.prefix is not None:
            request.prefix.healed = -1

    def knows(self, request: LiveRequest, until: int) -> bool:
        """Whether the state at the last boundary up to position `until` is there, or there is none to look for."""
        prefix = request.prefix
        if prefix is None:
            return True
        prefix.ahead += self._extend(request, prefix, until)
        keys = [key for end, key in prefix.ahead if request.coverage.next_position < end <= until]
        return not keys or keys[-1] in self._states

    def find(self, request: LiveRequest, until: int) -> tuple[int, PrefixState] | None:
        """The state at the last known boundary behind what is settled, up to position `until`, and that boundary."""
        if request.prefix is None:
            return None
        settled = request.coverage.next_position
        ends = [entry for entry in self._take(request, request.prefix, until) if entry[0] > settled]
        found = self._states.find([key for _, key in ends])
        if found is None:
            return None
        index, state = found
        end, request.prefix.key = ends[index]
        return end, state

    def restored(self, request: LiveRequest, state: PrefixState) -> None:
        """The request goes on from `state`; its coverage has been settled up to there."""
        if request.prefix is not None:
            request.prefix.last_firing = state.last_firing
            request.prefix.healed = request.coverage.dropped + request.coverage.unseen

    def end(self, request: LiveRequest) -> None:
        """Its prefixes were used until now, the longest of them least."""
        if request.prefix is not None:
            self._states.touch(request.prefix.key)

    def _take(self, request: LiveRequest, prefix: RequestPrefix, until: int) -> list[tuple[int, PrefixKey]]:
        """(end, key) of the blocks up to `until` that were not taken yet."""
        keys = prefix.ahead + self._extend(request, prefix, until)
        taken = [entry for entry in keys if entry[0] <= until]
        prefix.ahead = keys[len(taken) :]
        return taken

    def _extend(self, request: LiveRequest, prefix: RequestPrefix, until: int) -> list[tuple[int, PrefixKey]]:
        """(end, key) of the blocks up to `until` that were not hashed yet, as far as their tokens are known."""
        start, size = prefix.chain.position, self._block_size
        ids_n = request.log.ids(start, until)
        unknown = np.flatnonzero(ids_n < 0)
        hashes = prefix.chain.extend(ids_n[: unknown[0]] if unknown.size else ids_n)
        ends = range((start // size + 1) * size, until + 1, size)
        return [
            (end, PrefixKey(self.namespace, block, self._responses(request, end)))
            for end, block in zip(ends, hashes, strict=False)
        ]

    def _responses(self, request: LiveRequest, end: int) -> int:
        return max(end - request.identity.prompt_tokens, 0) if self._tells_phases_apart else 0


def _is_as_cold(request: LiveRequest, prefix: RequestPrefix) -> bool:
    """Whether every position was seen, or lies before a boundary to which the request was restored."""
    return request.coverage.dropped + request.coverage.unseen == prefix.healed
