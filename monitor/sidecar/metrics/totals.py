"""What was seen of all requests together."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.v1.coverage_pb2 import CoverageTotals


@dataclass(slots=True)
class Totals:
    """Counters of one tap, or of all.

    Attributes:
        frames, rows: what arrived and could be read.
        observed, restored, dropped, unseen: positions, counted as they are settled.
        broken: ended requests whose coverage did not add up.
    """

    frames: int = 0
    rows: int = 0
    observed: int = 0
    restored: int = 0
    dropped: int = 0
    unseen: int = 0
    broken: int = 0

    @property
    def positions(self) -> int:
        return self.observed + self.restored + self.dropped + self.unseen

    def add(self, other: Totals) -> None:
        self.frames += other.frames
        self.rows += other.rows
        self.observed += other.observed
        self.restored += other.restored
        self.dropped += other.dropped
        self.unseen += other.unseen
        self.broken += other.broken

    def message(self) -> CoverageTotals:
        return CoverageTotals(
            positions=self.positions,
            observed=self.observed,
            restored=self.restored,
            dropped=self.dropped,
            unseen=self.unseen,
            broken=self.broken,
        )
