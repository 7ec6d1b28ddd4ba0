"""Which policies judge on all taps, in which modes, and how that changes while requests run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable

from monitor.sidecar.background import Background
from monitor.sidecar.downlink import Downlink
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.modes import Modes
from monitor.sidecar.plan import TapPlan, model_name, plan_for_tap
from monitor.sidecar.plan_log import log_plan
from monitor.sidecar.policy_book import PolicyBook
from monitor.sidecar.publisher import Outcome, Publisher
from monitor.sidecar.stale import stale_alerts
from monitor.sidecar.tap import Tap
from monitor.sidecar.tap_edition import TapEdition
from monitor.sidecar.turns import Turns
from monitor.v1.tap_pb2 import Hello


class TapPolicies:
    """Used on the event loop, `plan_for` between frames.

    Attributes:
        on_plan: called with each plan that is new on a tap.
        plan_version: of what is in force; higher with each edition.
    """

    def __init__(
        self,
        taps: Iterable[Tap],
        *,
        book: PolicyBook,
        modes: Modes,
        publisher: Publisher,
        ledger: PolicyLedger,
        turns: Turns,
        background: Background,
    ) -> None:
        self.on_plan: Callable[[Tap, TapPlan], None] = lambda _tap, _plan: None
        self.plan_version = 1
        self._taps = taps
        self._book = book
        self._modes = modes
        self._publisher = publisher
        self._ledger = ledger
        self._turns = turns
        self._background = background

    def plan_for(self, hello: Hello) -> TapPlan:
        """What a tap that comes now is to watch; raises FeaturewatchError."""
        return plan_for_tap(self._book, hello.engine, hello.hook_points, self.plan_version, self._modes)

    def came(self, tap: Tap) -> None:
        """A tap is there with what `plan_for` gave."""
        self.on_plan(tap, tap.plan)
        if any(served.stale for served in tap.plan.served.values()):
            # By itself: a stream that breaks meanwhile must not take it along, for it is told once.
            self._background.start(self.tell_stale(tap, tap.plan))

    async def change(self, book: PolicyBook, modes: Modes, *, new_edition: bool) -> None:
        """Puts policies and modes in force on all taps, all or nothing, between two frames.

        Modes hold for requests that run as well. With `new_edition` requests that begin from now on, as soon as their
        tap watches what it needs, are judged by `book` and by which of its policies are not off now; those that run
        keep their edition. What takes time is done elsewhere while frames are judged. No tap may come meanwhile.
        Raises FeaturewatchError.
        """
        version = self.plan_version + new_edition
        prepared: list[tuple[Tap, TapEdition]] = []
        for tap in self._taps if new_edition else ():
            prepared.append((tap, await asyncio.to_thread(_edition, tap, book, modes, version)))

        def work() -> list[tuple[Tap, frozenset[str]]]:
            loaded = frozenset(policy.name for policy in book.policies)
            fallen = [(tap, tap.plan.fallen) for tap in self._taps]
            for tap, _ in fallen:
                tap.judge.retune(modes, loaded)
            for tap, edition in prepared:
                tap.judge.adopt(edition)
            self._book, self._modes, self.plan_version = book, modes, version
            return [(tap, tap.plan.fallen - before) for tap, before in fallen]

        newly_fallen = await self._turns.run(work)
        for tap, edition in prepared:
            self.send_plan(tap)
            # By itself: it is in force, whatever becomes of telling it.
            self._background.start(self._announce(tap, edition.plan))
        for tap, names in newly_fallen if not new_edition else ():
            if names:
                self._background.start(self.tell_stale(tap, tap.plan, names))

    def send_plan(self, tap: Tap) -> None:
        """Has the tap told what to watch, unless its stream was told that already."""
        downlink = tap.downlink
        if downlink is not None and downlink.watched != tap.judge.editions.watch.version:
            downlink.watched = tap.judge.editions.watch.version
            self._background.start(self._send_plan(tap, downlink))

    async def _send_plan(self, tap: Tap, downlink: Downlink) -> None:
        downlink.watch(await asyncio.to_thread(tap.judge.editions.message))

    async def _announce(self, tap: Tap, plan: TapPlan) -> None:
        log_plan(tap.hello, plan)
        self.on_plan(tap, plan)
        await self.tell_stale(tap, plan)

    async def tell_stale(self, tap: Tap, plan: TapPlan, names: Collection[str] | None = None) -> None:
        """Publishes that policies of a plan were fitted on another configuration: all of them where the plan is new on
        a tap, else those of these names."""

        def work() -> Outcome:
            alerts = stale_alerts(
                plan,
                names,
                tap_id=tap.hello.tap_id,
                session_id=tap.session_id,
                model=model_name(tap.hello.engine),
                now_unix_nanos=time.time_ns(),
            )
            for alert in alerts:
                self._ledger.fired(alert)
            return Outcome.of_policies(alerts, plan)

        self._publisher.publish(await self._turns.run(work), tap.hello.tap_id)


def _edition(tap: Tap, book: PolicyBook, modes: Modes, version: int) -> TapEdition:
    plan = plan_for_tap(book, tap.hello.engine, tap.hello.hook_points, version, modes)
    return tap.judge.prepare(plan)
