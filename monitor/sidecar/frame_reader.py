"""Takes out of a frame what can be true of the live requests, and tells what cannot."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.audit import gap_reason_text
from monitor.rpc import WireFormatError
from monitor.sidecar.frame_rows import Segment, read_activations, read_segments, read_token_ids
from monitor.sidecar.problem_log import ProblemLog
from monitor.sidecar.watch import Watch
from monitor.v1.tap_pb2 import Gap, GapReason, StepFrame

REFUSED: Final = "dropped: frame refused by the sidecar"


@dataclass(frozen=True)
class FrameRows:
    """The rows of a frame.

    Attributes:
        segments: those of live requests; others' rows are passed over.
        num_rows: of the frame.
        token_ids_n, acts_nk: of each row; None where the frame is refused.
        watch: what the columns of `acts_nk` are; None where the frame is refused.
        refused: why, as a gap's reason; empty when the rows are good.
    """

    segments: list[Segment]
    num_rows: int = 0
    token_ids_n: npt.NDArray[np.int32] | None = None
    acts_nk: npt.NDArray[np.float32] | None = None
    watch: Watch | None = None
    refused: str = ""


class FrameReader:
    """Reads the frames of one tap."""

    def __init__(self, find_watch: Callable[[int], Watch | None], max_positions: int, problems: ProblemLog) -> None:
        """`find_watch` finds a plan that the tap was sent, by its version."""
        self._find_watch = find_watch
        self._max_positions = max_positions
        self._problems = problems

    def rows(self, frame: StepFrame, live: Container[int]) -> FrameRows:
        """The rows of the requests whose handles are `live`."""
        segments: list[Segment] = []
        refused = REFUSED
        try:
            segments = read_segments(frame)
            num_rows = sum(segment.count for segment in segments)
            segments = [segment for segment in segments if self.is_plausible(segment, live)]
            token_ids_n = read_token_ids(frame, num_rows)
            if frame.plan_version == 0:
                refused = gap_reason_text(GapReason.GAP_REASON_NO_PLAN)
                raise WireFormatError("rows were computed without a watch plan")
            watch = self._find_watch(frame.plan_version)
            if watch is None:
                raise WireFormatError(f"plan {frame.plan_version} is none of those that this tap was sent lately")
            acts_nk = read_activations(frame, num_rows, watch.hooks)
            return FrameRows(segments, num_rows, token_ids_n, acts_nk, watch)
        except WireFormatError as error:
            self._problems.note("rows refused", f"frame {frame.seq}: {error}")
            return FrameRows(segments, refused=refused)

    def is_plausible(self, segment: Segment, live: Container[int]) -> bool:
        """Whether positions can be those of a live request."""
        if segment.handle not in live:
            self._problems.note("unknown handle", f"{segment.count} positions of {segment.handle}")
            return False
        if segment.count == 0:
            # It says nothing, and must not settle the positions before it.
            self._problems.note("no positions", f"0 at {segment.first} of {segment.handle}")
            return False
        if segment.first + segment.count > self._max_positions:
            self._problems.note("position out of range", f"{segment.first}+{segment.count} of {segment.handle}")
            return False
        return True


def gaps_around_rows(frame: StepFrame) -> tuple[list[Gap], list[Gap]]:
    """Gaps in front of their request's rows in this frame, and those behind them: positions are settled in order."""
    first_rows: dict[int, int] = {}
    for handle, position in zip(frame.handles, frame.first_positions, strict=False):
        first_rows.setdefault(handle, position)
    behind = [gap.first_position > first_rows.get(gap.handle, gap.first_position) for gap in frame.gaps]
    before = [gap for gap, late in zip(frame.gaps, behind, strict=True) if not late]
    return before, [gap for gap, late in zip(frame.gaps, behind, strict=True) if late]
