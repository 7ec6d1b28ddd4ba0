"""How much a request may use of what the engine's prefix cache holds of it.

Where a policy says `onUnseen: reread`, a cached prefix is used up to the last boundary for which the sidecar holds
detector state. Without such a boundary the request reads nothing from the cache, as with
`SamplingParams.skip_reading_prefix_cache`. Either way every position behind it is computed, and observed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from monitor.rpc.prefix_chain import PrefixChain, prefix_root
from monitor.tap.log import RateLimitedLog, logger
from monitor.tap.scheduler.labels import labels_of
from monitor.v1 import engine_pb2

SUMMARY_SECONDS: Final = 30.0
"""The counts are logged this often, if they change."""
_MEMORY: Final = "_featurewatch_prefix"


class KnownPrefixes(Protocol):
    """`monitor.tap.scheduler.watch.PrefixWatch`, as the gate reads it."""

    @property
    def active(self) -> bool: ...

    @property
    def lost(self) -> bool: ...

    def __contains__(self, prefix_hash: bytes) -> bool: ...


@dataclass
class GateStats:
    """Requests by what became of their hit; one that was refused first and found known later is in both.

    Attributes:
        known: used, with detector state in the sidecar.
        shortened: used up to a shorter boundary.
        reread: refused; the request was computed in full.
        reread_tokens: tokens of hits that were not used.
        unchecked: used while the sidecar was away: not observed.
    """

    known: int = 0
    shortened: int = 0
    reread: int = 0
    reread_tokens: int = 0
    unchecked: int = 0

    def summary(self) -> str:
        return (
            f"prefix hits: {self.known} with known state, {self.shortened} in part, {self.reread} computed again "
            f"({self.reread_tokens} tokens), {self.unchecked} unchecked"
        )


@dataclass(slots=True)
class _Memory:
    """What is kept with a request.

    Attributes:
        hashes: of its full blocks, as far as they were needed.
        asked_to_skip: the request's own wish to skip the cache, while the gate's is in its place.
        counted: verdicts that are in the statistics.
    """

    chain: PrefixChain
    hashes: list[bytes] = field(default_factory=list)
    asked_to_skip: bool | None = None
    counted: set[str] = field(default_factory=set)


class PrefixGate:
    """Decides; used by the scheduler's thread only.

    Args:
        block_size: tokens between boundaries at which state may be known; 0: there are none.
    """

    def __init__(self, watch: KnownPrefixes, engine: engine_pb2.EngineInfo, block_size: int) -> None:
        self._watch, self._engine, self._block_size = watch, engine, block_size
        self._log = RateLimitedLog()
        self._summarised = float("-inf")
        self.stats = GateStats()

    def usable(self, request: Any, tokens: int) -> int:
        """How many of the first `tokens` tokens of `request` (vLLM's), all of them cached, it may take from there."""
        if request.num_output_tokens:
            # What it has sampled from was reported when it was computed first, before its preemption.
            return tokens
        if self._watch.active:
            known = self._known(request, tokens)
            self._count(request, "known" if known == tokens else "shortened" if known else "reread", tokens - known)
            return known
        if self._watch.lost:
            self._count(request, "unchecked", 0)
        return tokens

    def refuse(self, request: Any) -> None:
        """Makes the request skip the cache until `reconsider`."""
        memory = self._memory(request)
        if memory.asked_to_skip is None:
            memory.asked_to_skip = bool(request.skip_reading_prefix_cache)
        request.skip_reading_prefix_cache = True

    def reconsider(self, request: Any) -> None:
        """Gives the request its own wish back: it waited since the last look-up, or was preempted."""
        memory: _Memory | None = getattr(request, _MEMORY, None)
        if memory is not None and memory.asked_to_skip is not None:
            request.skip_reading_prefix_cache, memory.asked_to_skip = memory.asked_to_skip, None

    def refused(self, request: Any) -> bool:
        memory: _Memory | None = getattr(request, _MEMORY, None)
        return memory is not None and memory.asked_to_skip is not None

    def _known(self, request: Any, tokens: int) -> int:
        """The last boundary with known state, up to `tokens`."""
        if not self._block_size:
            return 0
        memory = self._memory(request)
        if memory.chain.position < tokens:
            missing = request.all_token_ids[memory.chain.position : tokens]
            memory.hashes += memory.chain.extend(np.asarray(missing, np.int64))
        for blocks in range(tokens // self._block_size, 0, -1):
            if memory.hashes[blocks - 1] in self._watch:
                return blocks * self._block_size
        return 0

    def _memory(self, request: Any) -> _Memory:
        memory: _Memory | None = getattr(request, _MEMORY, None)
        if memory is None:
            salt_sha256, keys = labels_of(request)
            lora = request.lora_request
            root = prefix_root(self._engine, lora.lora_name if lora is not None else "", salt_sha256)
            memory = _Memory(PrefixChain(root, max(self._block_size, 1), keys))
            setattr(request, _MEMORY, memory)
        return memory

    def _count(self, request: Any, verdict: str, unused: int) -> None:
        """Once per request and verdict: a request that waits is looked up in every step."""
        counted = self._memory(request).counted
        if verdict in counted:
            return
        counted.add(verdict)
        setattr(self.stats, verdict, getattr(self.stats, verdict) + 1)
        self.stats.reread_tokens += unused
        if verdict == "unchecked":
            self._log.warn_about("unchecked", "the sidecar is away; cached prefixes are used without being observed")
        now = time.monotonic()
        if now - self._summarised >= SUMMARY_SECONDS:
            self._summarised = now
            logger.info("featurewatch: %s", self.stats.summary())
