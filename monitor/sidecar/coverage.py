"""The books of one request: every position counted once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monitor.sidecar.metrics.totals import Totals
from monitor.v1.coverage_pb2 import Coverage
from monitor.v1.generations_pb2 import CoverageGap

RESTORED = "restored: prefix cache"
NEVER_REPORTED = "dropped: never reported by the tap"


@dataclass(slots=True)
class GapSpan:
    """Consecutive positions without a judged row; a fifth of the protobuf message's memory."""

    first_position: int
    count: int
    reason: str

    def message(self) -> CoverageGap:
        return CoverageGap(first_position=self.first_position, count=self.count, reason=self.reason)


@dataclass(slots=True)
class CoverageBook:
    """Counts positions in order; what lies below `next_position` is settled.

    observed + restored + dropped + unseen == next_position holds after every call. Positions that neither rows nor gaps
    spoke of are counted as dropped when something after them arrives, and in `holes`. `totals` counts along.
    """

    next_position: int = 0
    observed: int = 0
    restored: int = 0
    dropped: int = 0
    unseen: int = 0
    holes: int = 0
    gaps: list[GapSpan] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals, compare=False, repr=False)

    def fresh(self, first: int, count: int) -> tuple[int, int]:
        """The part of [first, first + count) that is not settled yet, as (first, count); settles a hole before it."""
        end = first + count
        if end <= self.next_position:
            return self.next_position, 0
        self._close_hole(first)
        return self.next_position, end - self.next_position

    def observe(self, count: int) -> None:
        """The next `count` positions reached the detectors."""
        self.observed += count
        self.totals.observed += count
        self.next_position += count

    def restore(self, count: int) -> None:
        """The verdict on the next `count` positions is known without their rows."""
        self.restored += count
        self.totals.restored += count
        self._add_gap(count, RESTORED)
        self.next_position += count

    def miss(self, count: int, reason: str) -> None:
        """The next `count` positions were not judged; `reason` begins with "unseen:" or "dropped:"."""
        if not count:
            return
        if reason.startswith("unseen:"):
            self.unseen += count
            self.totals.unseen += count
        else:
            self.dropped += count
            self.totals.dropped += count
        self._add_gap(count, reason)
        self.next_position += count

    def lose(self, first: int, count: int, reason: str) -> None:
        """Counts positions as dropped that `observe` has counted and that no detector judged after all."""
        self.observed -= count
        self.dropped += count
        self.totals.observed -= count
        self.totals.dropped += count
        self.gaps.append(GapSpan(first, count, reason))

    def finish(self, positions: int) -> dict[str, str]:
        """Settles a request that had `positions` in total; returns what does not add up, by kind."""
        self._close_hole(positions)
        total = self.observed + self.restored + self.dropped + self.unseen
        faults = {}
        if self.holes:
            faults["positions never reported"] = (
                f"{self.holes} positions were never reported by the tap and are counted as dropped"
            )
        if total > positions:
            faults["more positions than the end says"] = (
                f"the tap reported {positions} positions at the end and {total} before it"
            )
        if total != self.next_position:
            faults["books of the sidecar"] = f"{total} positions are counted and {self.next_position} were settled"
        if faults:
            self.totals.broken += 1
        return faults

    def observed_p(self) -> npt.NDArray[np.bool_]:
        """Bool [next_position]: where the detectors saw a row."""
        observed_p = np.ones(self.next_position, np.bool_)
        for gap in self.gaps:
            observed_p[gap.first_position : gap.first_position + gap.count] = False
        return observed_p

    def first_dropped(self) -> int:
        """The first position that was dropped; 0 when none was."""
        return min((gap.first_position for gap in self.gaps if gap.reason.startswith("dropped:")), default=0)

    def message(self, positions: int | None = None) -> Coverage:
        """As protobuf; `positions` is the total the tap reported, by default what is settled so far."""
        return Coverage(
            positions=self.next_position if positions is None else positions,
            observed=self.observed,
            restored=self.restored,
            dropped=self.dropped,
            unseen=self.unseen,
        )

    def _add_gap(self, count: int, reason: str) -> None:
        last = self.gaps[-1] if self.gaps else None
        if last is not None and last.reason == reason and last.first_position + last.count == self.next_position:
            last.count += count
        else:
            self.gaps.append(GapSpan(self.next_position, count, reason))

    def _close_hole(self, position: int) -> None:
        hole = position - self.next_position
        if hole > 0:
            self.holes += hole
            self.miss(hole, NEVER_REPORTED)
