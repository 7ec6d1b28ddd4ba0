"""The books of one request: every position counted once."""

from __future__ import annotations

from dataclasses import dataclass, field

from monitor.v1.coverage_pb2 import Coverage
from monitor.v1.generations_pb2 import CoverageGap

NEVER_REPORTED = "dropped: never reported by the tap"


@dataclass
class CoverageBook:
    """Counts positions in order; what lies below `next_position` is settled.

    observed + restored + dropped + unseen == next_position holds after every call. Positions that neither rows nor gaps
    spoke of are counted as dropped when something after them arrives, and in `holes`.
    """

    next_position: int = 0
    observed: int = 0
    dropped: int = 0
    unseen: int = 0
    holes: int = 0
    gaps: list[CoverageGap] = field(default_factory=list)

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
        self.next_position += count

    def miss(self, count: int, reason: str) -> None:
        """The next `count` positions were not judged; `reason` begins with "unseen:" or "dropped:"."""
        if not count:
            return
        if reason.startswith("unseen:"):
            self.unseen += count
        else:
            self.dropped += count
        last = self.gaps[-1] if self.gaps else None
        if last is not None and last.reason == reason and last.first_position + last.count == self.next_position:
            last.count += count
        else:
            self.gaps.append(CoverageGap(first_position=self.next_position, count=count, reason=reason))
        self.next_position += count

    def lose(self, first: int, count: int, reason: str) -> None:
        """Counts positions as dropped that `observe` has counted and that no detector judged after all."""
        self.observed -= count
        self.dropped += count
        self.gaps.append(CoverageGap(first_position=first, count=count, reason=reason))

    def finish(self, positions: int) -> str:
        """Settles a request that had `positions` in total; returns what does not add up, or an empty string."""
        self._close_hole(positions)
        notes = []
        if self.holes:
            notes.append(f"{self.holes} positions were never reported by the tap and are counted as dropped")
        if self.next_position != positions:
            notes.append(f"the tap reported {positions} positions at the end and {self.next_position} before it")
        return "; ".join(notes)

    def message(self, positions: int | None = None) -> Coverage:
        """As protobuf; `positions` is the total the tap reported, by default what is settled so far."""
        return Coverage(
            positions=self.next_position if positions is None else positions,
            observed=self.observed,
            dropped=self.dropped,
            unseen=self.unseen,
        )

    def _close_hole(self, position: int) -> None:
        hole = position - self.next_position
        if hole > 0:
            self.holes += hole
            self.miss(hole, NEVER_REPORTED)
