"""Applies the frames of one tap: begins, gaps, rows, ends, in this order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.audit import in_sample
from monitor.rpc import WireFormatError, ints_from_bytes
from monitor.sidecar.evidence.capture import Subject
from monitor.sidecar.evidence.ended_requests import EndedRequests, observed_positions, subject_of
from monitor.sidecar.frame_reader import REFUSED, FrameReader, FrameRows, gaps_around_rows
from monitor.sidecar.frame_rows import Segment
from monitor.sidecar.history import HistoryPool
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.metrics.totals import Totals
from monitor.sidecar.modes import Modes
from monitor.sidecar.opening import LATEST_NANOS
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.book import PrefixBook
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.prefix.waiting_gaps import WaitingGaps
from monitor.sidecar.problem_log import ProblemLog
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.tap_edition import TapEdition, TapKit
from monitor.sidecar.tap_editions import TapEditions
from monitor.sidecar.tokenizer import TokenReader
from monitor.sidecar.verdicts import Verdicts
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import Gap, GapReason, RequestBegin, RequestEnd, StepFrame

_log = logging.getLogger(__name__)

# Positions of one request that are believed when the engine does not state its maximum.
DEFAULT_MAX_POSITIONS: Final = 1 << 21


class TapJudge:
    """All requests of one tap. One call at a time.

    Attributes:
        last_seq: highest StepFrame.seq taken.
        problems: counts of what was wrong with frames.
        totals: coverage of all requests of this tap.
        editions: of the policies, the newest and those that requests began with.
    """

    def __init__(
        self,
        *,
        tap_id: str,
        session_id: str,
        engine_info: EngineInfo,
        plan: TapPlan,
        reader: TokenReader,
        ledger: PolicyLedger,
        prefix_states: PrefixStates,
        history: HistoryPool,
        clock: Callable[[], int],
        keep_share: float = 0.0,
    ) -> None:
        """`clock` gives the wall clock in nanoseconds since the Unix epoch; `plan` is of the first edition. Of requests
        that nothing flags `keep_share` are recorded."""
        self.reader = reader
        self.engine_info = engine_info
        self.last_seq = 0
        self.totals = Totals()
        self.problems = ProblemLog(_log, f"tap {tap_id}")
        self._tap_id = tap_id
        self._max_positions = engine_info.max_model_len or DEFAULT_MAX_POSITIONS
        self._kit = TapKit(
            tap_id=tap_id,
            session_id=session_id,
            engine_info=engine_info,
            reader=reader,
            ledger=ledger,
            prefix_states=prefix_states,
            history=history,
            totals=self.totals,
            problems=self.problems,
            clock=clock,
        )
        self.editions = TapEditions(TapEdition(plan, self._kit))
        self._reader = FrameReader(self.editions.find_watch, self._max_positions, self.problems)
        self._clock = clock
        self._keep_share = keep_share
        self._ledger = ledger
        self._live: dict[int, LiveRequest] = {}
        self._edition_of: dict[int, TapEdition] = {}
        self._ended = EndedRequests()

    @property
    def plan(self) -> TapPlan:
        """Of the newest edition."""
        return self.editions.newest.plan

    @property
    def prefixes(self) -> PrefixBook:
        """Names of the prefixes whose state requests that begin now keep and restore."""
        return self.editions.newest.prefixes

    def prepare(self, plan: TapPlan) -> TapEdition:
        """Another edition for `adopt`; in any thread."""
        return TapEdition(plan, self._kit)

    def adopt(self, edition: TapEdition) -> None:
        """Requests begin with this edition as soon as the tap watches its directions; those that run keep theirs."""
        self.editions.add(edition)

    def retune(self, modes: Modes, loaded: Collection[str]) -> None:
        """Other modes of policies that are `loaded` from now on, for requests that run, too."""
        self.editions.retune(modes, loaded)

    @property
    def num_live(self) -> int:
        return len(self._live)

    @property
    def live(self) -> list[LiveRequest]:
        return [*self._live.values()]

    def subject(self, generation_id: str) -> Subject | None:
        """What a capture must know of a generation, live or lately ended; None when it is not known here."""
        request = self._request(generation_id)
        return self._ended.subject(generation_id) if request is None else subject_of(request, live=True)

    def observed(self, generation_id: str) -> npt.NDArray[np.bool_] | None:
        """Bool [positions]: which rows of a generation were judged; None when it is not known here any more."""
        request = self._request(generation_id)
        return self._ended.observed(generation_id) if request is None else observed_positions(request)

    def note(self, generation_id: str, text: str) -> None:
        """Adds a line to the record of a live generation; of one that has ended nothing is left to add it to."""
        request = self._request(generation_id)
        if request is not None:
            request.notes.append(text)

    def keep(self, generation_id: str) -> LiveRequest | None:
        """Has a live generation recorded at its end although nothing flags it; None when it is not live."""
        request = self._request(generation_id)
        if request is not None:
            request.kept = True
        return request

    def apply(self, frame: StepFrame) -> Verdicts:
        """Judges a frame. One taken before has no effect; what is malformed is counted, logged and left out."""
        verdicts = Verdicts()
        if frame.seq <= self.last_seq:
            self.problems.note("frame sent again", f"seq {frame.seq} after {self.last_seq}")
            return verdicts
        if self.last_seq and frame.seq != self.last_seq + 1:
            self.problems.note("frames missing", f"seq {frame.seq} after {self.last_seq}")
        self.last_seq = frame.seq
        self.totals.frames += 1
        for begin in frame.begins:
            self._try("begin", self._begin, begin, frame, verdicts)
        before, after = gaps_around_rows(frame)
        waiting = WaitingGaps(self._knows)
        for gap in before:
            if not frame.handles or not waiting.take(gap):
                self._try("gap", self._gap, gap, frame, verdicts)
        if frame.handles or frame.token_ids:
            self._try("rows", self._judge_rows, frame, waiting, verdicts)
        for gap in after:
            self._try("gap", self._gap, gap, frame, verdicts)
        for end in frame.ends:
            self._try("end", self._end, end, verdicts)
        self.editions.tidy()
        if frame.handles and frame.forward_end_unix_nanos:
            self._ledger.latency.add(self._clock() - frame.forward_end_unix_nanos)
        return verdicts

    def finish_all(self, note: str) -> Verdicts:
        """Ends every live request as far as it got, because the tap or the sidecar goes away."""
        verdicts = Verdicts()
        for handle, request in [*self._live.items()]:
            request.notes.append(note)
            self._try("end", self._settle, handle, request, request.coverage.next_position, self._clock(), verdicts)
        return verdicts

    def _try(self, what: str, step: Callable[..., None], *arguments: object) -> None:
        """Applies one entry of a frame."""
        try:
            step(*arguments)
        except Exception:  # noqa: BLE001
            # Whatever is wrong with it, the other entries must count: they are of other requests.
            _log.exception("tap %s: frame %d: %s", self._tap_id, self.last_seq, what)
            self.problems.note("judging failed", f"{what} in frame {self.last_seq}")

    def _begin(self, begin: RequestBegin, frame: StepFrame, verdicts: Verdicts) -> None:
        known = self._live.get(begin.handle)
        if known is not None and known.identity.request_id == begin.request_id:
            self.problems.note("request announced again", begin.request_id)
            return
        edition = self.editions.of_request(frame.plan_version)
        try:
            opened = edition.opener.open(begin)
        except WireFormatError as error:
            self.problems.note("malformed begin", f"{begin.request_id}: {error}")
            return
        if known is not None:
            self.problems.note("end never reported", f"{known.identity.request_id}: its handle names another request")
            known.notes.append("its end was never reported")
            self._settle(begin.handle, known, known.coverage.next_position, self._clock(), verdicts)
        self._ended.forget(begin.handle)
        opened.kept = in_sample(opened.identity.generation_id, self._keep_share)
        self._live[begin.handle] = opened
        self._edition_of[begin.handle] = edition
        edition.requests += 1

    def _gap(self, gap: Gap, frame: StepFrame, verdicts: Verdicts) -> None:
        segment = Segment(gap.handle, gap.first_position, gap.count, 0)
        if self._reader.is_plausible(segment, self._live):
            request = self._live[gap.handle]
            _, count = request.coverage.fresh(segment.first, segment.count)
            gaps = self._edition_of[gap.handle].gaps
            verdicts.add(request, gaps.settle(request, count, gap.reason, frame.forward_end_unix_nanos))

    def _knows(self, gap: Gap) -> bool:
        """Whether what other requests compute in this frame cannot change what becomes of a gap."""
        request = self._live.get(gap.handle)
        until = gap.first_position + gap.count
        if request is None or until > self._max_positions or gap.reason != GapReason.GAP_REASON_PREFIX_CACHE:
            return True
        return self._edition_of[gap.handle].prefixes.knows(request, until)

    def _judge_rows(self, frame: StepFrame, waiting: WaitingGaps, verdicts: Verdicts) -> None:
        """Judges the rows of requests that wait for nothing, then what waited for them, until all are judged."""
        rows = self._reader.rows(frame, self._live)
        segments = rows.segments
        self.totals.rows += rows.num_rows
        if rows.watch is not None:
            self.editions.saw(rows.watch)
        while True:
            ready = [segment for segment in segments if segment.handle not in waiting]
            segments = [segment for segment in segments if segment.handle in waiting]
            for edition, its_segments in self._by_edition(ready):
                self._judge_segments(edition, its_segments, rows, frame, verdicts)
            if not waiting:
                return
            for gap in waiting.release():
                self._try("gap", self._gap, gap, frame, verdicts)

    def _by_edition(self, segments: list[Segment]) -> list[tuple[TapEdition, list[Segment]]]:
        by_edition: dict[TapEdition, list[Segment]] = {}
        for segment in segments:
            by_edition.setdefault(self._edition_of[segment.handle], []).append(segment)
        return [*by_edition.items()]

    def _judge_segments(
        self,
        edition: TapEdition,
        segments: Sequence[Segment],
        rows: FrameRows,
        frame: StepFrame,
        verdicts: Verdicts,
    ) -> None:
        """Judges rows of requests of one edition, by its own columns."""
        if rows.token_ids_n is None or rows.acts_nk is None or rows.watch is None:
            self._refuse(segments, rows.refused)
            return
        try:
            columns = rows.watch.columns(edition.keys)
        except KeyError as missing:
            self.problems.note("rows refused", f"frame {frame.seq}: plan {frame.plan_version} lacks {missing}")
            self._refuse(segments, REFUSED)
            return
        acts_nk = rows.acts_nk if columns is None else rows.acts_nk[:, columns]
        for request, alert in edition.rows.judge(
            self._live, segments, rows.token_ids_n, acts_nk, frame.forward_end_unix_nanos
        ):
            verdicts.add(request, [alert])

    def _refuse(self, segments: Sequence[Segment], reason: str) -> None:
        for segment in segments:
            coverage = self._live[segment.handle].coverage
            _, count = coverage.fresh(segment.first, segment.count)
            coverage.miss(count, reason)

    def _end(self, end: RequestEnd, verdicts: Verdicts) -> None:
        request = self._live.get(end.handle)
        if request is None:
            self.problems.note("unknown handle", f"end of {end.handle}")
            return
        positions = end.positions
        if positions > self._max_positions:
            self.problems.note("position out of range", f"{request.identity.request_id} ends after {positions}")
            positions = request.coverage.next_position
        try:
            request.take_tail(self.reader, positions, ints_from_bytes(end.tail_token_ids, "tail_token_ids"))
        except WireFormatError as error:
            self.problems.note("malformed end", f"{request.identity.request_id}: {error}")
        end_unix_nanos = min(end.end_unix_nanos, LATEST_NANOS) or self._clock()
        self._settle(end.handle, request, positions, end_unix_nanos, verdicts)

    def _settle(
        self, handle: int, request: LiveRequest, positions: int, end_unix_nanos: int, verdicts: Verdicts
    ) -> None:
        """Closes the books of a request; it counts as ended whatever becomes of what is told of it."""
        verdicts.ended.append(request)
        faults = request.coverage.finish(positions)
        for kind, fault in faults.items():
            told = f"{request.identity.request_id}: {fault}"
            self.problems.note(f"coverage does not add up, {kind}", told, logging.ERROR)
            request.notes.append(f"coverage does not add up: {fault}")
        request.positions = positions
        request.end_unix_nanos = end_unix_nanos
        del self._live[handle]
        edition = self._edition_of.pop(handle)
        edition.requests -= 1
        self._try("what was dropped", self._tell_dropped, edition, request, verdicts)
        self._ended.add(request)
        edition.prefixes.end(request)
        request.close()

    def _tell_dropped(self, edition: TapEdition, request: LiveRequest, verdicts: Verdicts) -> None:
        verdicts.add(request, edition.gaps.ended(request))

    def _request(self, generation_id: str) -> LiveRequest | None:
        return next((r for r in self._live.values() if r.identity.generation_id == generation_id), None)
