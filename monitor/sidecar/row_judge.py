"""Judges the rows of one frame: one vectorised step of the policy engine for all requests in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.policy import CompiledRule, Judgement, PolicyEngine
from monitor.sidecar.alerting import build_alert, readings_of
from monitor.sidecar.frame_rows import Segment
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.problem_log import ProblemLog
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.alerts_pb2 import Alert, DetectorReading

_log = logging.getLogger(__name__)

NOT_FINITE: Final = "dropped: activations not finite"
FAILED: Final = "dropped: judging failed"


@dataclass(frozen=True)
class _Run:
    """Consecutive positions of one request from `first` on, in rows [row, row + count) of the frame."""

    request: LiveRequest
    first: int
    row: int
    count: int


class RowJudge:
    """The policy engine of one tap, with what it takes to feed it and to tell what fired."""

    def __init__(
        self,
        *,
        tap_id: str,
        plan: TapPlan,
        reader: TokenReader,
        ledger: PolicyLedger,
        problems: ProblemLog,
        clock: Callable[[], int],
    ) -> None:
        self.engine = PolicyEngine(plan.policies)
        self._tap_id = tap_id
        self._plan = plan
        self._reader = reader
        self._ledger = ledger
        self._problems = problems
        self._clock = clock
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
        runs: list[_Run] = []
        try:
            rows, starts, judgement = self._advance(live, segments, token_ids_n, acts_nk, runs)
        except Exception:  # noqa: BLE001
            # Whatever is wrong with these rows, the gaps and ends of their frame must be applied, and rows that no
            # detector judged must not be counted as observed.
            _log.exception("tap %s: %d rows not judged", self._tap_id, len(token_ids_n))
            self._problems.note("judging failed", f"{len(token_ids_n)} rows")
            _drop(live, segments, runs)
            return []
        fired = []
        for firing in judgement.firings:
            index = int(np.searchsorted(starts, firing.row, side="right")) - 1
            run = runs[index]
            rule = self._plan.policies.rules[firing.rule]
            position = run.first + firing.row - int(starts[index])
            try:
                readings = readings_of(self.engine, rule, judgement, firing.row, acts_nk[rows[firing.row]])
                alert = self._alert(run.request, position, rule, readings, forward_end_unix_nanos)
            except Exception:  # noqa: BLE001
                # The other alerts of the frame must go out whatever is wrong with this one.
                told = f"{rule.policy}/{rule.id} fired at position {position}, but its alert could not be made"
                _log.exception("tap %s: request %s: %s", self._tap_id, run.request.identity.request_id, told)
                self._problems.note("alert failed", told)
                run.request.notes.append(told)
                continue
            fired.append((run.request, alert))
        return fired

    def _advance(
        self,
        live: Mapping[int, LiveRequest],
        segments: Sequence[Segment],
        token_ids_n: npt.NDArray[np.int32],
        acts_nk: npt.NDArray[np.float32],
        runs: list[_Run],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Judgement]:
        """Fills `runs`, also when it fails; returns their rows, where each begins among these, and the judgement."""
        num_rows = len(token_ids_n)
        slots_n = np.zeros(num_rows, np.int64)
        classes_n, phases_n = np.zeros(num_rows, np.uint8), np.zeros(num_rows, np.uint8)
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
            classes_n[span] = self._read_tokens(request, first, token_ids_n[span])
            phases_n[span] = request.phase_codes(first, count)
            if all_finite:
                request.coverage.observe(count)
                runs.append(_Run(request, first, row, count))
            else:
                runs += self._observe(request, first, row, finite_n[span])
        rows = _rows_of(runs)
        judgement = self.engine.advance(acts_nk[rows], slots_n[rows], classes_n[rows], phases_n[rows])
        starts = np.cumsum([0, *(run.count for run in runs)])
        self._write(runs, starts, judgement)
        return rows, starts, judgement

    def _read_tokens(
        self, request: LiveRequest, first: int, token_ids_n: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint8]:
        """Writes the tokens of rows into the transcript and returns their classes."""
        in_prompt = request.identity.prompt_tokens - first
        prompt = request.log.token_ids_p[first : first + min(len(token_ids_n), in_prompt)] if in_prompt > 0 else ()
        if len(prompt) and not np.array_equal(prompt, token_ids_n[: len(prompt)]):
            self._problems.note("tokens differ from the prompt", f"{request.identity.request_id} from position {first}")
        request.log.write_ids(first, token_ids_n)
        return request.classify(self._reader, first, token_ids_n)

    def _observe(self, request: LiveRequest, first: int, row: int, finite_n: npt.NDArray[np.bool_]) -> list[_Run]:
        """Settles rows in the coverage; those with a NaN or an infinity are dropped."""
        if not finite_n.all():
            self._problems.note("activations not finite", f"{request.identity.request_id} from position {first}")
        edges = np.flatnonzero(np.diff(finite_n)) + 1
        runs = []
        for part in np.split(np.arange(len(finite_n)), edges):
            if finite_n[part[0]]:
                request.coverage.observe(len(part))
                runs.append(_Run(request, first + int(part[0]), row + int(part[0]), len(part)))
            else:
                request.coverage.miss(len(part), NOT_FINITE)
        return runs

    def _write(self, runs: Sequence[_Run], starts: npt.NDArray[np.int64], judgement: Judgement) -> None:
        for run, start in zip(runs, starts.tolist(), strict=False):
            part = slice(start, start + run.count)
            run.request.log.write_scores(
                run.first, judgement.scores_nd[part], judgement.token_scores_nd[part], judgement.states_nd[part]
            )
        judged_nd = ~np.isnan(judgement.token_scores_nd)
        for policy, columns in self._columns.items():
            self._ledger.judged(policy, int(judged_nd[:, columns].any(axis=1).sum()))

    def _alert(
        self,
        request: LiveRequest,
        position: int,
        rule: CompiledRule,
        readings: list[DetectorReading],
        forward_end_unix_nanos: int,
    ) -> Alert:
        served = self._plan.served[rule.policy]
        alert = build_alert(
            tap_id=self._tap_id,
            request=request,
            position=position,
            rule=rule,
            served=served,
            readings=readings,
            reader=self._reader,
            now_unix_nanos=self._clock(),
            forward_end_unix_nanos=forward_end_unix_nanos,
        )
        request.add_alert(alert, served.policy.document.spec.record.content)
        self._ledger.fired(alert)
        return alert


def _drop(live: Mapping[int, LiveRequest], segments: Sequence[Segment], runs: Sequence[_Run]) -> None:
    """Counts the rows of a frame that could not be judged as dropped, those that were already settled included."""
    for run in runs:
        run.request.coverage.lose(run.first, run.count, FAILED)
        run.request.log.observed_p[run.first : run.first + run.count] = False
    for segment in segments:
        coverage = live[segment.handle].coverage
        _, count = coverage.fresh(segment.first, segment.count)
        coverage.miss(count, FAILED)


def _rows_of(runs: Sequence[_Run]) -> npt.NDArray[np.int64]:
    """Row numbers of all runs, in order."""
    counts = np.array([run.count for run in runs], np.int64)
    starts = np.array([run.row for run in runs], np.int64)
    return np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
