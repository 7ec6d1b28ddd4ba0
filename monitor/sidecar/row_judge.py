"""Judges the rows of one frame: one vectorised step of the policy engine for all requests in it."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.policy import Judgement, PolicyEngine
from monitor.sidecar.alert_maker import AlertMaker
from monitor.sidecar.alerting import readings_of
from monitor.sidecar.deadlines import Deadlines
from monitor.sidecar.frame_rows import Segment
from monitor.sidecar.frame_runs import Runs, without_hidden
from monitor.sidecar.history import HistoryView
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.book import PrefixBook
from monitor.sidecar.problem_log import ProblemLog
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.alerts_pb2 import Alert

_log = logging.getLogger(__name__)

NOT_FINITE: Final = "dropped: activations not finite"
FAILED: Final = "dropped: judging failed"


class RowJudge:
    """The policy engine of one tap, with what it takes to feed it and to tell what fired."""

    def __init__(
        self,
        *,
        tap_id: str,
        plan: TapPlan,
        engine: PolicyEngine,
        reader: TokenReader,
        prefixes: PrefixBook,
        alerts: AlertMaker,
        ledger: PolicyLedger,
        problems: ProblemLog,
        history: HistoryView,
    ) -> None:
        self._tap_id = tap_id
        self._plan = plan
        self._engine = engine
        self._reader = reader
        self._prefixes = prefixes
        self._alerts = alerts
        self._ledger = ledger
        self._problems = problems
        self._history = history
        self._deadlines = Deadlines(plan, alerts, ledger)
        self._columns = {
            policy.name: [d for d, detector in enumerate(plan.policies.detectors) if detector.policy == policy.name]
            for policy in plan.policies.policies
        }

    def judge(
        self,
        live: Mapping[int, LiveRequest],
        segments: Sequence[Segment],
        token_ids_n: npt.NDArray[np.int32],
        acts_nk: npt.NDArray[np.float32],
        forward_end_unix_nanos: int,
    ) -> list[tuple[LiveRequest, Alert]]:
        """Advances coverage, transcripts and detectors; returns what began to fire, in row order.

        Args:
            live: requests by handle; every segment's is there.
            segments: rows of requests; rows outside of them are passed over.
            token_ids_n: token of each row.
            acts_nk: activations of each row, columns as in `PolicySet.directions`.
        """
        runs = Runs()
        try:
            rows, judgement, shown = self._advance(live, segments, token_ids_n, acts_nk, runs)
        except Exception:  # noqa: BLE001
            # Whatever is wrong with these rows, the gaps and ends of their frame must be applied, and rows that no
            # detector judged must not be counted as observed.
            _log.exception("tap %s: %d rows not judged", self._tap_id, len(token_ids_n))
            self._problems.note("judging failed", f"{len(token_ids_n)} rows")
            runs.drop(live, segments, FAILED)
            return []
        passed = self._deadlines.passed(forward_end_unix_nanos)
        late = {deadline.rule for deadline in passed}
        fired = self._tell(runs, rows, judgement, acts_nk, forward_end_unix_nanos, late=late)
        return fired + self._deadlines.tell(passed, runs, shown, forward_end_unix_nanos)

    def _tell(
        self,
        runs: Runs,
        rows: npt.NDArray[np.int64],
        judgement: Judgement,
        acts_nk: npt.NDArray[np.float32],
        forward_end_unix_nanos: int,
        *,
        late: Collection[int],
    ) -> list[tuple[LiveRequest, Alert]]:
        """Alerts of what fired, and the states at block boundaries into the store, each with what fired before it: also
        what this request tells no one, for a later one that has its prefix may."""
        fired = []
        marks, kept = runs.marks(), 0
        starts = [run.start for run in runs.runs]
        for firing in judgement.firings:
            while kept < len(marks) and marks[kept][0] < firing.row:
                self._prefixes.keep(marks[kept][1], self._engine.snapshot(judgement.snapshots_mf[kept]))
                kept += 1
            run = runs.runs[bisect_right(starts, firing.row) - 1]
            rule = self._plan.policies.rules[firing.rule]
            position = run.first + firing.row - run.start
            try:
                readings = readings_of(self._engine, rule, judgement, firing.row, acts_nk[rows[firing.row]])
                alert = None
                if self._alerts.tells(run.request, rule.policy):
                    alert = self._alerts.fired(
                        run.request, position, rule, readings, forward_end_unix_nanos, late=firing.rule in late
                    )
            except Exception:  # noqa: BLE001
                # The other alerts of the frame must go out whatever is wrong with this one.
                self._alerts.failed(run.request, position, rule.policy, rule.id)
                self._prefixes.spoil(run.request)
                continue
            self._prefixes.add_firing(run.request, position, firing.rule, readings)
            if alert is not None:
                fired.append((run.request, alert))
        for line in range(kept, len(marks)):
            self._prefixes.keep(marks[line][1], self._engine.snapshot(judgement.snapshots_mf[line]))
        return fired

    def _advance(
        self,
        live: Mapping[int, LiveRequest],
        segments: Sequence[Segment],
        token_ids_n: npt.NDArray[np.int32],
        acts_nk: npt.NDArray[np.float32],
        runs: Runs,
    ) -> tuple[npt.NDArray[np.int64], Judgement, Judgement]:
        """Fills `runs`, also when it fails; returns their rows, the judgement of these, and what is shown of it."""
        num_rows = len(token_ids_n)
        slots_n, positions_n = np.zeros(num_rows, np.int64), np.zeros(num_rows, np.int64)
        classes_n, phases_n = np.zeros(num_rows, np.uint8), np.zeros(num_rows, np.uint8)
        places_n = np.empty(num_rows, np.int64)
        self._history.pool.begin_frame()
        finite_n = np.asarray(np.isfinite(acts_nk).all(axis=1))
        all_finite = bool(finite_n.all())
        for segment in segments:
            request = live[segment.handle]
            first, count = request.coverage.fresh(segment.first, segment.count)
            if count < segment.count:
                self._problems.note("positions sent again", f"{segment.count - count} of {request.identity.request_id}")
            row = segment.row + segment.count - count
            span = slice(row, row + count)
            if not count:
                continue
            slots_n[span] = request.slot
            positions_n[span] = first if count == 1 else np.arange(first, first + count)
            ids_n = token_ids_n[span]
            places_n[span] = request.log.write_ids(first, ids_n)
            classes_n[span] = self._read_tokens(request, first, ids_n)
            phases_n[span] = request.phase_codes(self._reader, first, ids_n)
            if all_finite:
                self._observe(runs, request, first, row, count)
            else:
                self._observe_finite(runs, request, first, row, finite_n[span])
        rows = runs.rows()
        judgement = self._engine.advance(
            acts_nk[rows],
            slots_n[rows],
            classes_n[rows],
            phases_n[rows],
            positions_n=positions_n[rows],
            save_n=_lines(runs),
        )
        if not self._history.pool.holds:
            # The pages of some rows may be another request's by now.
            for run in runs.runs:
                places_n[run.row : run.row + run.count] = run.request.log.places(run.first, run.count)
        shown = without_hidden(judgement, runs)
        self._history.write_scores(places_n[rows], shown.scores_nd, shown.token_scores_nd)
        self._count(shown)
        return rows, judgement, shown

    def _read_tokens(
        self, request: LiveRequest, first: int, token_ids_n: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint8]:
        """Token classes of rows."""
        if first < request.identity.prompt_tokens:
            self._compare_with_prompt(request, first, token_ids_n)
        return request.classify(self._reader, first, token_ids_n)

    def _compare_with_prompt(self, request: LiveRequest, first: int, token_ids_n: npt.NDArray[np.int32]) -> None:
        until = min(first + len(token_ids_n), request.identity.prompt_tokens)
        prompt = request.log.prompt_ids(first, until)
        if prompt is not None and not np.array_equal(prompt, token_ids_n[: len(prompt)]):
            self._problems.note("tokens differ from the prompt", f"{request.identity.request_id} from position {first}")

    def _observe(self, runs: Runs, request: LiveRequest, first: int, row: int, count: int) -> None:
        request.coverage.observe(count)
        runs.add(request, first, row, count, self._prefixes.boundaries(request, first, count))

    def _observe_finite(
        self, runs: Runs, request: LiveRequest, first: int, row: int, finite_n: npt.NDArray[np.bool_]
    ) -> None:
        """Settles rows in the coverage; those with a NaN or an infinity are dropped."""
        if not finite_n.all():
            self._problems.note("activations not finite", f"{request.identity.request_id} from position {first}")
        edges = np.flatnonzero(np.diff(finite_n)) + 1
        for part in np.split(np.arange(len(finite_n)), edges):
            if finite_n[part[0]]:
                self._observe(runs, request, first + int(part[0]), row + int(part[0]), len(part))
            else:
                request.coverage.miss(len(part), NOT_FINITE)

    def _count(self, judgement: Judgement) -> None:
        judged_nd = ~np.isnan(judgement.token_scores_nd)
        for policy, columns in self._columns.items():
            self._ledger.judged(policy, int(judged_nd[:, columns].any(axis=1).sum()))


def _lines(runs: Runs) -> npt.NDArray[np.int64] | None:
    """For each row of the runs the line of the snapshot to be taken after it, or -1; None when there is none."""
    marks = runs.marks()
    if not marks:
        return None
    lines_n = np.full(runs.num_rows, -1, np.int64)
    lines_n[[row for row, _ in marks]] = np.arange(len(marks))
    return lines_n
