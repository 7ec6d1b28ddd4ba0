"""Rows of one frame that are judged, cut into runs of consecutive positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from monitor.policy import Judgement
from monitor.sidecar.frame_rows import Segment
from monitor.sidecar.prefix.book import Boundary
from monitor.sidecar.request import LiveRequest


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive positions of one request from `first` on, in rows [row, row + count) of the frame.

    Attributes:
        start: where it begins among the rows of all runs.
        boundaries: where its state is to be kept.
    """

    request: LiveRequest
    first: int
    row: int
    count: int
    start: int
    boundaries: Sequence[Boundary]


@dataclass
class Runs:
    """All runs of a frame, in order of rows. Added to while coverage is settled, so that a failure can be undone."""

    runs: list[Run] = field(default_factory=list)
    num_rows: int = 0

    def add(self, request: LiveRequest, first: int, row: int, count: int, boundaries: Sequence[Boundary]) -> None:
        self.runs.append(Run(request, first, row, count, self.num_rows, boundaries))
        self.num_rows += count

    def rows(self) -> npt.NDArray[np.int64]:
        """Row numbers in the frame, int64 [num_rows]."""
        counts = np.array([run.count for run in self.runs], np.int64)
        offsets = np.array([run.row - run.start for run in self.runs], np.int64)
        return np.arange(self.num_rows) + np.repeat(offsets, counts)

    def marks(self) -> list[tuple[int, Boundary]]:
        """(row among the rows of all runs, boundary), in order of rows."""
        return [(run.start + found.offset, found) for run in self.runs for found in run.boundaries]

    def drop(self, live: Mapping[int, LiveRequest], segments: Sequence[Segment], reason: str) -> None:
        """Counts the rows of a frame that could not be judged as dropped, those that were settled included."""
        for run in self.runs:
            run.request.coverage.lose(run.first, run.count, reason)
        for segment in segments:
            coverage = live[segment.handle].coverage
            _, count = coverage.fresh(segment.first, segment.count)
            coverage.miss(count, reason)


def without_hidden(judgement: Judgement, runs: Runs) -> Judgement:
    """A judgement of the rows of runs, its scores NaN where the detector's policy does not judge the request."""
    hiding = [(run, run.request.judging.hidden_d) for run in runs.runs if run.request.judging.hidden_d is not None]
    if not hiding:
        return judgement
    scores_nd, token_scores_nd = judgement.scores_nd.copy(), judgement.token_scores_nd.copy()
    for run, hidden_d in hiding:
        rows = slice(run.start, run.start + run.count)
        scores_nd[rows, hidden_d] = token_scores_nd[rows, hidden_d] = np.nan
    return replace(judgement, scores_nd=scores_nd, token_scores_nd=token_scores_nd)
