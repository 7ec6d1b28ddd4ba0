"""Captures of residual rows, as rules and clients ask for them, and what they give: evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import numpy as np

from monitor.sidecar.background import Background
from monitor.sidecar.evidence.capture import Capture, CaptureRefusedError, Subject
from monitor.sidecar.evidence.desk import EvidenceDesk, Gathered, Seen
from monitor.sidecar.publisher import CaptureOrder
from monitor.sidecar.tap import Tap
from monitor.sidecar.turns import Turns


class TapCaptures:
    """Between the desk, which makes evidence, and the taps that have the rows. Used on the event loop."""

    def __init__(self, taps: Iterable[Tap], desk: EvidenceDesk, turns: Turns, background: Background) -> None:
        self._taps = taps
        self._desk = desk
        self._turns = turns
        self._background = background

    async def find(self, generation_id: str) -> tuple[Tap, Subject] | None:
        """The tap of a generation, live or lately ended, with what a capture must know of it."""

        def work() -> tuple[Tap, Subject] | None:
            for tap in self._taps:
                subject = tap.judge.subject(generation_id)
                if subject is not None:
                    return tap, subject
            return None

        return await self._turns.run(work)

    def gather(self, tap: Tap, capture: Capture, reason: str) -> asyncio.Task[Gathered]:
        """Evidence of a capture at hook points with dictionaries, which the store gets too; the end of the sidecar
        waits for it."""
        subject = capture.subject

        def look() -> Seen:
            now, observed_p = tap.judge.subject(subject.generation_id), tap.judge.observed(subject.generation_id)
            # So many have ended since that it is forgotten.
            if now is None or observed_p is None:
                return Seen("", np.ones(subject.positions, np.bool_))
            return Seen(now.content, observed_p)

        return self._background.start(self._desk.gather(tap, capture, reason, look=lambda: self._turns.run(look)))

    def follow(self, tap: Tap, order: CaptureOrder) -> None:
        """Begins to gather evidence of a request on which a rule fired, until its end."""
        hook_points = [*order.subject.dictionaries]
        try:
            if not hook_points:
                raise CaptureRefusedError(
                    "NO_DICTIONARY",
                    order.reason,
                    "no policy of this request names an SAE",
                    "remove capture from the rule",
                )
            capture = self._desk.captures.start(tap, order.subject, hook_points, follow=True)
        except CaptureRefusedError as refused:
            tap.judge.problems.note("capture refused", f"request {order.subject.request_id}: {refused}")
            told = f"no evidence for {order.reason}: {refused}"
            self._background.start(self._note(tap, order.subject.generation_id, told))
        else:
            self.gather(tap, capture, order.reason)

    async def _note(self, tap: Tap, generation_id: str, text: str) -> None:
        await self._turns.run(lambda: tap.judge.note(generation_id, text))
