"""monitor.v1.TapService.WatchPrefixes: which prefixes have detector state, for the schedulers of engines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from monitor.rpc.prefix_chain import prefix_root
from monitor.sidecar.plan import model_name
from monitor.sidecar.prefix.feed import PrefixFeed, known_among
from monitor.sidecar.tap import Tap
from monitor.sidecar.taps import Taps
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import WatchPrefixesRequest, WatchPrefixesResponse

_log = logging.getLogger(__name__)

# Changes are gathered this long before they are sent; meanwhile the engine computes a prefix once too often.
BATCH_SECONDS: Final = 0.01
HASHES_A_MESSAGE: Final = 16_384


class PrefixService:
    """Tells each engine's scheduler what the store holds of its prefixes, as long as a policy says `reread`.

    An engine's taps are those that name prefixes alike (`prefix_root`); engines that are served alike share states.
    """

    def __init__(self, taps: Taps) -> None:
        self._taps = taps
        self._states = taps.prefix_states
        # Replaced, not changed: judging goes through it.
        self._feeds: tuple[PrefixFeed, ...] = ()
        self._closing = False
        # There is nothing to judge before the first tap comes.
        self._states.add_listener(self)
        taps.on_change = self._outdate

    @property
    def watchers(self) -> int:
        return len(self._feeds)

    async def watch(self, request: WatchPrefixesRequest, context: Any) -> None:
        """Serves one call until the engine or the sidecar ends it."""
        feed = PrefixFeed(self._states)
        self._feeds += (feed,)
        reread: bool | None = None
        warned_of: list[str] = []
        try:
            while not self._closing:
                changes = feed.take()
                if changes is None:
                    asking = self._asking(request.engine)
                    if reread != bool(asking):
                        reread = bool(asking)
                        _log.info("engine %s: %s", model_name(request.engine), _told(reread))
                    strangers = [] if asking else self._strangers(request.engine)
                    if strangers != warned_of:
                        warned_of = strangers
                        _warn(request.engine, strangers)
                    known = await self._known(feed, frozenset(tap.judge.prefixes.namespace for tap in asking))
                    for part in _parts(known, [], reread=reread, reset=True):
                        await context.write(part)
                elif changes != ([], []):
                    for part in _parts(*changes, reread=bool(reread), reset=False):
                        await context.write(part)
                await feed.changed.wait()
                await asyncio.sleep(BATCH_SECONDS)
        finally:
            self._feeds = tuple(other for other in self._feeds if other is not feed)

    def close(self) -> None:
        """Ends all calls."""
        self._closing = True
        self._outdate()

    def on_added(self, namespace: bytes, prefix_hash: bytes) -> None:
        for feed in self._feeds:
            feed.on_added(namespace, prefix_hash)

    def on_removed(self, namespace: bytes, prefix_hash: bytes) -> None:
        for feed in self._feeds:
            feed.on_removed(namespace, prefix_hash)

    def _outdate(self) -> None:
        for feed in self._feeds:
            feed.outdate()

    async def _known(self, feed: PrefixFeed, namespaces: frozenset[bytes]) -> list[bytes]:
        keys = await self._taps.between_frames(partial(feed.begin, namespaces))
        # Elsewhere: a full store takes longer to go through than a verdict may.
        return await asyncio.to_thread(known_among, keys, namespaces)

    def _asking(self, engine: EngineInfo) -> list[Tap]:
        """The engine's taps with a policy that says `reread`."""
        root = prefix_root(engine)
        return [tap for tap in self._taps if tap.plan.reread and prefix_root(tap.hello.engine) == root]

    def _strangers(self, engine: EngineInfo) -> list[str]:
        """Taps of the same model that are not this engine's, by how they name prefixes."""
        name = model_name(engine)
        return [tap.hello.tap_id for tap in self._taps if tap.plan.reread and model_name(tap.hello.engine) == name]


def _warn(engine: EngineInfo, strangers: list[str]) -> None:
    if strangers:
        _log.warning(
            "engine %s: its scheduler names prefixes otherwise than tap %s; no prefix is read again",
            model_name(engine),
            ", ".join(strangers),
        )


def _told(reread: bool) -> str:
    return "prefixes without detector state are read again" if reread else "cached prefixes are used as they come"


def _parts(added: list[bytes], removed: list[bytes], *, reread: bool, reset: bool) -> Iterator[WatchPrefixesResponse]:
    """The first part says all but hashes even if there are none."""
    size = HASHES_A_MESSAGE
    for start in range(0, max(len(added), len(removed), 1), size):
        yield WatchPrefixesResponse(
            reread=reread,
            reset=reset and start == 0,
            added=added[start : start + size],
            removed=removed[start : start + size],
        )
