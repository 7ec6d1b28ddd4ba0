"""The taps that speak, or spoke a moment ago, to this sidecar. Their state outlives a broken stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

from monitor.sidecar.background import Background
from monitor.sidecar.correlations import Correlations
from monitor.sidecar.evidence.desk import EvidenceDesk
from monitor.sidecar.history import HistoryPool
from monitor.sidecar.judge import TapJudge
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.metrics.totals import Totals
from monitor.sidecar.modes import Modes
from monitor.sidecar.policy_book import PolicyBook
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.publisher import Outcome, Publisher
from monitor.sidecar.tap import Tap
from monitor.sidecar.tap_captures import TapCaptures
from monitor.sidecar.tap_policies import TapPolicies
from monitor.sidecar.tokenizer_cache import TokenizerCache
from monitor.sidecar.turns import Turns
from monitor.sidecar.verdicts import Verdicts
from monitor.v1.tap_pb2 import Hello, StepFrame

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# They take so little time (about a microsecond each) that other calls need not be served in between.
SHORT_POSITIONS: Final = 2048


class Taps:
    """Attaches streams to taps and judges their frames, one at a time and in order.

    A tap that goes away keeps its state for `grace_seconds`, so that a short break costs nothing; then its requests are
    ended as far as they got.
    """

    def __init__(
        self,
        book: PolicyBook,
        publisher: Publisher,
        tokenizers: TokenizerCache,
        prefix_states: PrefixStates,
        evidence: EvidenceDesk,
        *,
        history: HistoryPool,
        session_id: str,
        grace_seconds: float,
        modes: Modes | None = None,
        keep_share: float = 0.0,
    ) -> None:
        self.evidence = evidence
        self.ledger = PolicyLedger()
        self.correlations = Correlations(time.monotonic_ns)
        self.prefix_states = prefix_states
        self.on_change: Callable[[], None] = lambda: None
        """Called when a tap with a new plan has come, or one is gone for good."""
        self.history = history
        self._publisher = publisher
        self._tokenizers = tokenizers
        self._session_id = session_id
        self._grace_seconds = grace_seconds
        self._keep_share = keep_share
        self._taps: dict[str, Tap] = {}
        self._lives: Counter[str] = Counter()
        self._leaving: list[Tap] = []
        self._gone = Totals()
        self._gone_problems: Counter[str] = Counter()
        self._turns = Turns()
        self._attaching = asyncio.Lock()
        self._background = Background()
        self.policies = TapPolicies(
            self,
            book=book,
            modes=modes or Modes(),
            publisher=publisher,
            ledger=self.ledger,
            turns=self._turns,
            background=self._background,
        )
        self.captures = TapCaptures(self, evidence, self._turns, self._background)

    def __iter__(self) -> Iterator[Tap]:
        return iter([*self._taps.values()])

    def totals(self) -> Totals:
        """Coverage of all requests since the start, those of taps that are gone included."""
        totals = Totals()
        totals.add(self._gone)
        for tap in (*self, *self._leaving):
            totals.add(tap.judge.totals)
        return totals

    def problems(self) -> Counter[str]:
        """What was wrong with frames of all taps since the start, by kind."""
        problems = Counter(self._gone_problems)
        for tap in (*self, *self._leaving):
            problems.update(tap.judge.problems.by_kind)
        if self.correlations.failed:
            problems["correlation failed"] = self.correlations.failed
        if self._background.failed:
            problems["background work failed"] = self._background.failed
        return problems

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Runs `work` between frames, for callers in other threads; raises RuntimeError after `close`."""
        return self._turns.submit(work)

    async def between_frames(self, work: Callable[[], _T]) -> _T:
        """Runs `work` between frames, when the state of all requests is consistent."""
        return await self._turns.run(work)

    async def attach(self, hello: Hello) -> Tap:
        """The tap's state, as it was left or new; an older stream of the same tap ends. Raises FeaturewatchError."""
        async with self._attaching:
            tap = self._taps.get(hello.tap_id)
            if tap is not None and not _same_tap(tap.hello, hello):
                if tap.reader is not None:
                    tap.reader.cancel()
                    tap.reader = None
                    tap.downlink = None
                    self.evidence.captures.tap_gone(tap)
                if tap.expiry is not None:
                    tap.expiry.cancel()
                await self._expire(tap)
                tap = None
            if tap is None:
                tap = await self.between_frames(lambda: self._new_tap(hello))
                self._taps[hello.tap_id] = tap
                self.on_change()
                self.policies.came(tap)
        if tap.expiry is not None:
            tap.expiry.cancel()
            tap.expiry = None
        if tap.reader is not None:
            tap.reader.cancel()
        # Until the new stream writes: directives on the old one would be lost without a word.
        tap.downlink = None
        # What an older stream was asked for does not come on this one.
        self.evidence.captures.tap_gone(tap)
        return tap

    async def change(self, book: PolicyBook, modes: Modes, *, new_edition: bool) -> None:
        """As `TapPolicies.change`."""
        async with self._attaching:
            await self.policies.change(book, modes, new_edition=new_edition)
        self.on_change()

    def detach(self, tap: Tap, reader: asyncio.Task[None]) -> None:
        """The stream that `reader` read has ended: what is flagged is written, the state waits for the tap."""
        if tap.reader is not reader:
            return
        tap.reader = None
        tap.downlink = None
        self.evidence.captures.tap_gone(tap)
        loop = asyncio.get_running_loop()
        tap.expiry = loop.call_later(self._grace_seconds, lambda: self._background.start(self._expire_away(tap)))
        self._background.start(self._save_flagged(tap))
        _log.info("tap %s: stream ended with %d requests live", tap.hello.tap_id, len(tap.judge.live))

    async def judge(self, tap: Tap, frames: Sequence[StepFrame]) -> None:
        """Judges frames in order and publishes what they gave, also when the stream that brought them ends."""
        await asyncio.shield(self._background.start(self._judge(tap, frames)))

    async def close(self) -> None:
        """Ends all requests as far as they got, publishes them, and ends the thread."""
        for tap in self:
            if tap.expiry is not None:
                tap.expiry.cancel()
        await self.evidence.close()
        # Frames that wait for their turn come before the end of their requests.
        await self._background.wait()
        for tap in self:
            await self._finish(tap, "the sidecar shut down before it ended")
        self._turns.close()

    def _new_tap(self, hello: Hello) -> Tap:
        self._lives[hello.tap_id] += 1
        life = self._lives[hello.tap_id]
        # A tap whose state was given up must learn that it is lost, although the process is still the same.
        session_id = self._session_id if life == 1 else f"{self._session_id}/{life}"
        judge = TapJudge(
            tap_id=hello.tap_id,
            session_id=session_id,
            engine_info=hello.engine,
            plan=self.policies.plan_for(hello),
            reader=self._tokenizers.reader_for(hello.engine.tokenizer),
            ledger=self.ledger,
            prefix_states=self.prefix_states,
            history=self.history,
            clock=time.time_ns,
            keep_share=self._keep_share,
        )
        return Tap(hello=hello, session_id=session_id, judge=judge)

    async def _judge(self, tap: Tap, frames: Sequence[StepFrame]) -> None:
        def work() -> list[Outcome]:
            return [self._apply(tap, frame) for frame in frames]

        short = sum(_positions(frame) for frame in frames) <= SHORT_POSITIONS
        for outcome in await self._turns.run(work, short=short):
            self._publisher.publish(outcome, tap.hello.tap_id)
            # An edition may have gone with its last request.
            self.policies.send_plan(tap)
            for order in outcome.captures:
                self.captures.follow(tap, order)
            for generation_id in outcome.ended:
                self.evidence.captures.request_ended(generation_id)

    def _apply(self, tap: Tap, frame: StepFrame) -> Outcome:
        verdicts = tap.judge.apply(frame)
        self.correlations.follow(verdicts, tap.hello.tap_id, self.ledger)
        return _outcome(verdicts, tap.judge)

    async def _save_flagged(self, tap: Tap) -> None:
        def work() -> Outcome:
            return Outcome.of_requests([request for request in tap.judge.live if request.alerts], tap.judge)

        self._publisher.publish(await self.between_frames(work), tap.hello.tap_id)

    async def _expire_away(self, tap: Tap) -> None:
        # It may have come back since the timer went off.
        if tap.reader is None:
            await self._expire(tap)

    async def _expire(self, tap: Tap) -> None:
        def go() -> None:
            if tap in self._leaving:
                self._leaving.remove(tap)
                self._gone.add(tap.judge.totals)
                self._gone_problems.update(tap.judge.problems.by_kind)

        if self._taps.get(tap.hello.tap_id) is tap:
            del self._taps[tap.hello.tap_id]
            self._leaving.append(tap)
            self.on_change()
        await self._finish(tap, "the tap went away before it ended")
        # In its turn: a snapshot in between would miss what the tap counted.
        await self.between_frames(go)

    async def _finish(self, tap: Tap, note: str) -> None:
        def work() -> Outcome:
            return _outcome(tap.judge.finish_all(note), tap.judge)

        self._publisher.publish(await self.between_frames(work), tap.hello.tap_id)


def _outcome(verdicts: Verdicts, judge: TapJudge) -> Outcome:
    outcome = Outcome.of(verdicts, judge)
    for request in verdicts.ended:
        # Its record has copies.
        request.log.release()
    return outcome


def _positions(frame: StepFrame) -> int:
    """How many a frame speaks of: rows, gaps, prompts."""
    gaps = sum(gap.count for gap in frame.gaps)
    return sum(frame.row_counts) + gaps + sum(len(begin.prompt_token_ids) // 4 for begin in frame.begins)


def _same_tap(one: Hello, other: Hello) -> bool:
    return one.engine == other.engine and one.hook_points == other.hook_points
