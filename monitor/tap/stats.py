"""What the tap counts about itself."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from monitor.tap.self_test import STARTING, SelfTest

_BUCKETS_PER_OCTAVE: Final = 8


@dataclass
class Duration:
    """Time spent on one kind of work: count, sum and a histogram fine enough for quantiles within 9 %."""

    count: int = 0
    total_nanos: int = 0
    _buckets: dict[int, int] = field(default_factory=dict)

    def add(self, nanos: int) -> None:
        self.count += 1
        self.total_nanos += nanos
        bits = max(nanos, 1).bit_length()
        bucket = bits * _BUCKETS_PER_OCTAVE + (nanos * _BUCKETS_PER_OCTAVE * 2 >> bits)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def quantile_nanos(self, share: float) -> float:
        """Upper end of the bucket that holds the quantile; 0 when nothing was measured."""
        left = share * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                octave, step = divmod(bucket - _BUCKETS_PER_OCTAVE, _BUCKETS_PER_OCTAVE)
                return float(2**octave) * (step + 1 + _BUCKETS_PER_OCTAVE) / (2 * _BUCKETS_PER_OCTAVE)
        return 0.0

    def __str__(self) -> str:
        if not self.count:
            return "never"
        mean = self.total_nanos / self.count / 1000
        return f"{self.count} x {mean:.0f} us (p99 {self.quantile_nanos(0.99) / 1000:.0f} us)"


@dataclass
class TapStats:
    """Counters of one tap. Every field has one writing thread: the engine's (first block) or the publisher's."""

    # Monotonic.
    attached_nanos: int = field(default_factory=time.monotonic_ns)
    steps: int = 0
    steps_fired: int = 0
    rows: int = 0
    rejected_draft_rows: int = 0
    engine_errors: int = 0
    on_step: Duration = field(default_factory=Duration)
    encode: Duration = field(default_factory=Duration)
    self_test: SelfTest = STARTING
    recorder_errors: int = 0
    record: Duration = field(default_factory=Duration)

    silent_steps: int = 0
    publisher_errors: int = 0
    frames: int = 0
    connections: int = 0
    publish: Duration = field(default_factory=Duration)
    captures: int = 0
    captures_refused: int = 0
    captured_rows: int = 0
    capture: Duration = field(default_factory=Duration)

    @property
    def errors(self) -> int:
        """Everything that was caught."""
        return self.engine_errors + self.recorder_errors + self.publisher_errors

    def summary(self) -> str:
        """One line for the log."""
        return (
            f"steps {self.steps}, with all hook points fired {self.steps_fired - self.silent_steps}, rows {self.rows}, "
            f"rejected draft rows {self.rejected_draft_rows}, "
            f"frames {self.frames}, errors {self.errors}, "
            f"time in the engine's thread {self.on_step}, of it encode {self.encode} and record {self.record}, "
            f"publish thread {self.publish}, captures {self.captures} with {self.captured_rows} rows {self.capture}, "
            f"self-test {self.self_test}"
        )
