"""The editions of the policies that judge requests of one tap, and what the tap watches for them.

A reload must cost no position of any request. So the tap watches the directions of all editions that have requests, or
that requests can still begin with: a tap goes over to a new plan at some step, and frames that it encoded before are on
their way. Its frames name the plan under which they were encoded, in order; a request begins with the newest edition
whose directions are in that plan and in all plans that were sent since.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Final

from monitor.sidecar.modes import Modes
from monitor.sidecar.tap_edition import TapEdition
from monitor.sidecar.watch import Watch, merged_keys, watch_message
from monitor.v1.tap_pb2 import WatchPlan

# Plans whose columns are known, for frames that were encoded under them and arrive late.
MOST_WATCHES: Final = 256


class TapEditions:
    """Used between frames; `watch` and `message` also elsewhere."""

    def __init__(self, first: TapEdition) -> None:
        watch = Watch(first.plan.watch_plan.version, first.keys)
        self._editions: tuple[TapEdition, ...] = (first,)
        self._watches: OrderedDict[int, Watch] = OrderedDict({watch.version: watch})
        self._seen = watch
        # Replaced as one: they are read while frames are judged.
        self._in_force: tuple[Watch, tuple[TapEdition, ...]] = (watch, self._editions)

    @property
    def newest(self) -> TapEdition:
        return self._editions[-1]

    @property
    def watch(self) -> Watch:
        """What the tap is to watch."""
        return self._in_force[0]

    def message(self) -> WatchPlan:
        """What the tap is to be sent; takes time with many directions. In any thread."""
        watch, editions = self._in_force
        return watch_message(watch, [(edition.keys, edition.plan) for edition in editions])

    def find_watch(self, version: int) -> Watch | None:
        """A plan that the tap was sent, unless that is long ago."""
        return self._watches.get(version)

    def add(self, edition: TapEdition) -> None:
        """Requests that begin with a plan that has its directions are judged by it."""
        self._editions = (*self._editions, edition)
        self._keep()

    def saw(self, watch: Watch) -> None:
        """Rows arrived that were encoded under a plan; nothing that was encoded before comes any more."""
        if watch.version > self._seen.version:
            self._seen = watch

    def of_request(self, version: int) -> TapEdition:
        """What judges a request that a frame announces; `version` is of the frame's plan, 0 when it has none."""
        if len(self._editions) == 1:
            return self.newest
        return self._newest_since(self._watches.get(version, self._seen)) or self.newest

    def retune(self, modes: Modes, loaded: Collection[str]) -> None:
        """As `TapPlan.retune`."""
        for edition in self._editions:
            edition.plan.retune(modes, loaded)

    def tidy(self) -> None:
        """Lets editions go whose requests have ended and that no request to come can begin with."""
        if len(self._editions) > 1 and self._needed() != self._editions:
            self._keep()

    def _needed(self) -> tuple[TapEdition, ...]:
        base = self._newest_since(self._seen)
        return tuple(one for one in self._editions if one.requests or one is base or one is self.newest)

    def _keep(self) -> None:
        """Keeps what is needed, and has the tap watch the directions of that and of nothing else."""
        self._editions = kept = self._needed()
        keys = merged_keys([edition.keys for edition in kept])
        watch = self.watch
        if keys != watch.keys:
            watch = Watch(watch.version + 1, keys)
            self._watches[watch.version] = watch
            while len(self._watches) > MOST_WATCHES:
                self._watches.popitem(last=False)
        self._in_force = (watch, kept)

    def _newest_since(self, watch: Watch) -> TapEdition | None:
        """The newest edition whose directions were watched then and ever since."""
        since = [one for version, one in self._watches.items() if version >= watch.version]
        for edition in reversed(self._editions):
            if all(one.covers(edition.keys) for one in since):
                return edition
        return None
