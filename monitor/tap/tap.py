"""One tap: what happens in the engine's thread, between the runner adapter and the publisher."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, ParamSpec, Protocol

from monitor.tap.book import RequestBook
from monitor.tap.encode import Encoder
from monitor.tap.log import RateLimitedLog, logger
from monitor.tap.plan import ActivePlan
from monitor.tap.record import NO_PLAN, QUEUE_FULL, TAP_ERROR, NewRequest, RowTable, Step
from monitor.tap.stats import TapStats

_P = ParamSpec("_P")

DETACH_AFTER_ERRORS: Final = 20
"""Errors without a faultless step between them after which the tap takes itself out of the engine."""


class Sink(Protocol):
    """Where steps go (the publisher)."""

    @property
    def full(self) -> bool: ...

    def offer(self, step: Step) -> None: ...


class Tap:
    """Nothing here raises into the engine: the adapter calls through `guard`, and what it catches is counted.

    Args:
        detach: takes the tap out of the engine; called after `DETACH_AFTER_ERRORS` errors in a row.
    """

    def __init__(
        self, encoder: Encoder, book: RequestBook, sink: Sink, stats: TapStats, detach: Callable[[], None]
    ) -> None:
        self._encoder, self._book, self._sink, self._stats, self._detach = encoder, book, sink, stats, detach
        self._log = RateLimitedLog()
        self._errors_in_a_row = 0
        self._announced = False
        self.plan: ActivePlan | None = None
        """In force. Only the engine's thread sets it, between two steps."""
        # Set by the publisher; a tuple, so that the same plan proposed again is another proposal.
        self._proposal: tuple[ActivePlan | None] = (None,)
        self._adopted: tuple[ActivePlan | None] = self._proposal

    def propose(self, plan: ActivePlan | None) -> None:
        """From the next step on `plan` is in force; None: nothing is watched. Called from any thread."""
        self._proposal = (plan,)

    def guard(self, work: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> bool:
        """Runs `work`; returns False, and counts, when it raised."""
        start = time.perf_counter_ns()
        try:
            work(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 -- the tap must never fail a request
            self._failed(error)
            return False
        finally:
            self._stats.on_step.add(time.perf_counter_ns() - start)
        return True

    def knows(self, request_id: str) -> bool:
        return request_id in self._book

    def between_steps(self, ended: Iterable[tuple[str, Sequence[int]]], begun: Iterable[NewRequest]) -> None:
        """The scheduler has decided on a step.

        Args:
            ended: requests that finished or were aborted since the last step, with all tokens sampled for them.
            begun: requests scheduled for the first time.
        """
        self._announced = False
        now = time.time_ns()
        # What the book holds as told must be offered, and the hook points' counters read, whatever fails here.
        try:
            self._close(ended, Step(now))
        finally:
            try:
                self._open(begun, Step(now))
            finally:
                self._encoder.mark()
        if self._proposal is not self._adopted:
            self._adopt(self._proposal)
        self._announced = True

    def _close(self, ended: Iterable[tuple[str, Sequence[int]]], step: Step) -> None:
        try:
            for request_id, output_token_ids in ended:
                self._book.end(request_id, output_token_ids, step)
        finally:
            if step.ends:
                self._sink.offer(step)

    def _open(self, begun: Iterable[NewRequest], step: Step) -> None:
        try:
            for request in begun:
                self._book.begin(request, step)
        finally:
            if step.begins:
                self._sink.offer(step)

    def _adopt(self, proposal: tuple[ActivePlan | None]) -> None:
        # One attempt: a plan that the device does not take leaves the tap without one, and that is counted.
        self._adopted, self.plan = proposal, None
        (plan,) = proposal
        self.plan = self._encoder.adopt(plan) if plan is not None else None

    def after_forward(self, table: RowTable) -> None:
        """A forward pass has run (or, on a GPU, has been launched) over the rows of `table`."""
        self._stats.steps += 1
        step = Step(time.time_ns())
        plan = self.plan
        step.plan_digest = plan.digest if plan is not None else ""
        step.missing_because = NO_PLAN if plan is None else QUEUE_FULL
        start = time.perf_counter_ns()
        failure: Exception | None = None
        try:
            kept = self._book.rows(table, step)
            if not self._encoder.fired():
                step.missing_because = TAP_ERROR
                self._log.warn_about("silent", "a hook point did not fire in a forward pass; its rows are not observed")
            else:
                self._stats.steps_fired += 1
                if not self._sink.full:
                    step.payload = self._encoder.encode(plan, table.token_ids, int(table.bounds[-1]), kept)
        except Exception as error:  # noqa: BLE001 -- what the book holds as reported must be offered, as a gap
            step.missing_because, step.payload, failure = TAP_ERROR, None, error
        self._stats.encode.add(time.perf_counter_ns() - start)
        self._stats.rows += sum(segment.length for segment in step.segments)
        self._sink.offer(step)
        if failure is not None:
            raise failure
        if self._announced:
            self._errors_in_a_row = 0

    def blind(self, positions: Mapping[str, int]) -> None:
        """The step went by unseen, or in part; `positions[request]` are computed in total."""
        self._book.blind(positions)

    def end_all(self, outputs: Callable[[str], Sequence[int]]) -> None:
        """The engine stops, or the tap leaves it: closes every request as far as it was seen."""
        step = Step(time.time_ns())
        self._book.end_all(outputs, step)
        self._sink.offer(step)

    def _failed(self, error: Exception) -> None:
        self._stats.engine_errors += 1
        self._errors_in_a_row += 1
        self._log.warn_about("step", "an error in the tap was caught; the engine is not affected", exception=error)
        if self._errors_in_a_row >= DETACH_AFTER_ERRORS:
            logger.error("featurewatch: %d errors in a row; the tap detaches itself", self._errors_in_a_row)
            try:
                self._detach()
            except Exception:  # noqa: BLE001 -- a tap that cannot leave must still not fail a request
                logger.exception("featurewatch: the tap could not detach itself")
