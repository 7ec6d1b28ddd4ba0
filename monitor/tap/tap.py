"""One tap: what happens in the engine's thread, between the runner adapter and the publisher."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, ParamSpec, Protocol, TypeVar

from monitor.tap.book import RequestBook
from monitor.tap.drafts import Verdict
from monitor.tap.encode import Encoder
from monitor.tap.log import RateLimitedLog, logger
from monitor.tap.pending import InOrder
from monitor.tap.plan import ActivePlan
from monitor.tap.record import NO_PLAN, QUEUE_FULL, TAP_ERROR, KeptRows, NewRequest, Payload, RowTable, Step
from monitor.tap.recorder.recorder import FlightRecorder
from monitor.tap.recorder.recording import Recording
from monitor.tap.stats import TapStats

_P = ParamSpec("_P")
_T = TypeVar("_T")

DETACH_AFTER_ERRORS: Final = 20
"""Errors without a faultless step between them after which the tap takes itself out of the engine."""


class Sink(Protocol):
    """Where steps go (the publisher)."""

    @property
    def full(self) -> bool: ...

    def offer(self, step: Step) -> None: ...


class DraftsUnknownError(RuntimeError):
    """The runner did not tell how many drafts it accepted."""


class Tap:
    """Nothing here raises into the engine: the adapter calls through `guard`, and what it catches is counted.

    Args:
        detach: takes the tap out of the engine; called after `DETACH_AFTER_ERRORS` errors in a row.
        recorder: keeps the residual rows; None: nothing does.
    """

    def __init__(
        self,
        encoder: Encoder,
        book: RequestBook,
        sink: Sink,
        stats: TapStats,
        detach: Callable[[], None],
        *,
        recorder: FlightRecorder | None = None,
    ) -> None:
        self._recording = Recording(recorder, stats)
        self._encoder, self._book, self._sink, self._stats, self._detach = encoder, book, sink, stats, detach
        self._log = RateLimitedLog()
        # What the book is told. Steps with drafts wait for their verdict, and everything behind them waits too.
        self._order = InOrder()
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

    def between_steps(self, ended: Iterable[tuple[str, Sequence[int]]], begun: Iterable[NewRequest]) -> None:
        """The scheduler has decided on a step.

        Args:
            ended: requests that finished or were aborted since the last step, with all tokens sampled for them; those
                that are not live are passed over.
            begun: requests scheduled for the first time.
        """
        self._announced = False
        now = time.time_ns()
        # What the book holds as told must be offered, the hook points' counters read and a new plan taken, whatever
        # fails here.
        try:
            self._order.add(lambda: self._close(ended, Step(now)))
        finally:
            try:
                self._order.add(lambda: self._open(begun, Step(now)))
            finally:
                self._encoder.mark()
                if self._proposal is not self._adopted:
                    self._adopt(self._proposal)
        self._announced = True

    def _close(self, ended: Iterable[tuple[str, Sequence[int]]], step: Step) -> None:
        known = [one for one in ended if one[0] in self._book]
        try:
            _each(lambda one: self._book.end(*one, step), known)
        finally:
            if step.ends:
                self._offer(step)

    def _open(self, begun: Iterable[NewRequest], step: Step) -> None:
        try:
            _each(lambda request: self._begin(request, step), begun)
        finally:
            if step.begins:
                self._offer(step)

    def _begin(self, request: NewRequest, step: Step) -> None:
        self._book.begin(request, step)
        if request.fault:
            # Counted, but no error in a row: clients must not be able to make the tap detach itself.
            self._stats.engine_errors += 1
            self._log.warn_about("request", f"request {request.request_id}: {request.fault}")

    def _offer(self, step: Step) -> None:
        self._recording.note(step)
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
        if plan is not None:
            step.plan_digest, step.plan_version = plan.digest, plan.version
        step.missing_because = NO_PLAN if plan is None else QUEUE_FULL
        payload: Payload | None = None
        placed: int | None = None
        failure: Exception | None = None
        try:
            if not self._encoder.fired():
                step.missing_because = TAP_ERROR
                self._log.warn_about("silent", "a hook point did not fire in a forward pass; its rows are not observed")
            else:
                self._stats.steps_fired += 1
                placed = self._recording.place(int(table.bounds[-1]))
                if not self._sink.full:
                    start = time.perf_counter_ns()
                    payload = self._encoder.encode(plan, table.token_ids, int(table.bounds[-1]))
                    self._stats.encode.add(time.perf_counter_ns() - start)
        except Exception as error:  # noqa: BLE001 -- the rows must be reported, as a gap
            step.missing_because, failure = TAP_ERROR, error
        faultless, self._announced = self._announced and failure is None, False
        self._order.add(lambda: self._report(table, step, payload, placed, faultless), table.drafts)
        if failure is not None:
            raise failure

    def settle(self, *, wait: bool = False) -> None:
        """Drafts of an earlier step may have been judged; with `wait` they will be, and the device is waited for."""
        self._order.settle(wait=wait)

    def _report(
        self, table: RowTable, step: Step, payload: Payload | None, placed: int | None, faultless: bool
    ) -> None:
        """Tells the book, and the sink, of a step whose rows are all known for what they are."""
        doubtful: list[str] = []
        try:
            if table.drafts is not None:
                verdict = table.drafts.read()
                doubtful = self._blind_doubtful(table, verdict)
                table = replace(table, first_positions=verdict.first_positions, rejected=verdict.rejected)
                self._stats.rejected_draft_rows += int(verdict.rejected[~verdict.unknown].sum())
            kept = self._book.rows(table, step)
            self._recording.settle(placed, int(table.bounds[-1]), step, kept)
            if payload is not None and step.segments:
                step.payload = payload if kept is None else KeptRows(payload, kept, int(table.bounds[-1]))
        except Exception:
            step.missing_because, step.payload = TAP_ERROR, None
            self._book.blind(table.ends())
            raise
        finally:
            self._stats.rows += sum(segment.length for segment in step.segments)
            self._offer(step)
        if doubtful:
            raise DraftsUnknownError(f"what became of the drafts of {', '.join(doubtful)} is not known")
        if faultless:
            self._errors_in_a_row = 0

    def _blind_doubtful(self, table: RowTable, verdict: Verdict) -> list[str]:
        """Notes the drafts that may have been accepted; returns the requests that have such."""
        if not verdict.unknown.any():
            return []
        ends = replace(table, first_positions=verdict.first_positions).ends()
        doubtful = [request_id for request_id, u in zip(table.request_ids, verdict.unknown, strict=True) if u]
        self._book.blind({request_id: ends[request_id] for request_id in doubtful})
        return doubtful

    def blind(self, positions: Mapping[str, int]) -> None:
        """The step went by unseen, or in part; `positions[request]` are computed in total, drafts included."""
        self._order.add(lambda: self._book.blind(positions))

    def end_all(self, outputs: Callable[[str], Sequence[int]]) -> None:
        """The engine stops, or the tap leaves it: closes every request as far as it was seen."""
        while len(self._order):
            try:
                self._order.settle(wait=True)
            except Exception as error:  # noqa: BLE001 -- every request must be closed; counted
                self._count(error)
        step = Step(time.time_ns())
        self._book.end_all(outputs, step)
        self._offer(step)

    def _count(self, error: Exception) -> None:
        self._stats.engine_errors += 1
        self._log.warn_about("step", "an error in the tap was caught; the engine is not affected", exception=error)

    def _failed(self, error: Exception) -> None:
        self._count(error)
        self._errors_in_a_row += 1
        if self._errors_in_a_row >= DETACH_AFTER_ERRORS:
            logger.error("featurewatch: %d errors in a row; the tap detaches itself", self._errors_in_a_row)
            try:
                self._detach()
            except Exception:  # noqa: BLE001 -- a tap that cannot leave must still not fail a request
                logger.exception("featurewatch: the tap could not detach itself")


def _each(work: Callable[[_T], None], items: Iterable[_T]) -> None:
    """Does `work` for all items, whichever of them fail; then raises the first failure."""
    failures = []
    for item in items:
        try:
            work(item)
        except Exception as error:  # noqa: BLE001 -- one request's fault must not cost the others their announcement
            failures.append(error)
    if failures:
        raise failures[0]
