"""One capture: residual rows of one generation on their way from a tap to whoever asked."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import numpy as np

from monitor.errors import FeaturewatchError
from monitor.policy import DirectionRef
from monitor.rpc import WireFormatError, check_residual_rows
from monitor.v1.tap_pb2 import ResidualRows

# Rows that have arrived and were not taken yet, of one capture.
MOST_WAITING_BYTES: Final = 64 << 20
# Encoding reads the whole dictionary once per call: what waits is taken together up to here.
JOINED_BYTES: Final = 1 << 20


class Outcome(Enum):
    """How a capture ended."""

    COMPLETE = "all that the recorder had"
    TAP_AWAY = "the tap went away"
    TIMED_OUT = "the tap sent nothing more"
    STOPPED = "it was stopped"


class CaptureRefusedError(FeaturewatchError):
    """A capture cannot be made; `reason` is for programs."""

    def __init__(self, reason: str, subject: str, rule: str, remedy: str) -> None:
        super().__init__(subject, rule, remedy)
        # Exceptions are made again from `args` when they are copied.
        self.args = (reason, subject, rule, remedy)
        self.reason = reason


@dataclass(frozen=True)
class Subject:
    """Whose rows: a generation, and the handle that names it in its tap's stream.

    Attributes:
        positions: that were processed when this was looked up.
        live: whether more may come.
        content: "full", or "none" when a policy that fired forbids content.
        flagged: whether a rule fired on it.
        dictionaries: ids of the SAEs that its policies name, by hook point.
        directions: that its policies watch, with the labels that they give.
    """

    generation_id: str
    request_id: str
    handle: int
    positions: int
    live: bool
    content: str
    flagged: bool
    dictionaries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    directions: tuple[DirectionRef, ...] = ()


class Capture:
    """Checks what a tap sends for one capture and hands it on in order. Used on the event loop only.

    ``async for rows in capture`` gives every good message once and ends with the capture. What waits is bounded: rows
    beyond `MOST_WAITING_BYTES` are refused and set `overflowed`.

    Attributes:
        id: as in CaptureRows and ResidualRows.
        outcome: how it ended; None while it runs.
        counts: rows taken per hook point.
    """

    def __init__(
        self,
        id_: int,
        subject: Subject,
        hook_points: Sequence[str],
        *,
        follow: bool,
        width: int,
        max_positions: int,
        reserve: Callable[[int], bool] = lambda _bytes: True,
    ) -> None:
        """`width` is the engine's, 0 when it does not say. `reserve` accounts for bytes that wait: a negative number
        gives back, False refuses."""
        self.id = id_
        self.subject = subject
        self.follow = follow
        self.outcome: Outcome | None = None
        self.overflowed = False
        self.counts = dict.fromkeys(hook_points, 0)
        self._width, self._dtype, self._max_positions = width, "", max_positions
        self._reserve = reserve
        self._open = set(hook_points)
        self._seen = {hook_point: np.zeros(0, np.bool_) for hook_point in hook_points}
        self._waiting: deque[ResidualRows] = deque()
        self._waiting_bytes = 0
        self._changed = asyncio.Event()

    @property
    def hook_points(self) -> tuple[str, ...]:
        return tuple(self.counts)

    def take(self, rows: ResidualRows) -> None:
        """Takes a message of this capture. Raises WireFormatError for one that cannot be true; its `last` counts."""
        if self.outcome is not None:
            raise WireFormatError("the capture has ended")
        if rows.handle != self.subject.handle:
            raise WireFormatError(f"handle {rows.handle}, the capture is of {self.subject.handle}")
        try:
            if rows.row_count:
                self._take_rows(rows)
        finally:
            if rows.last:
                self._open -= {rows.hook_point} if rows.hook_point else self._open
                if not self._open:
                    self.end(Outcome.COMPLETE)

    def end(self, outcome: Outcome) -> None:
        """Nothing more is taken; what waits can still be read. Only the first call counts."""
        if self.outcome is None:
            self.outcome = outcome
            self._changed.set()

    def discard(self) -> None:
        """Ends it and throws away what waits: nobody reads it any more."""
        self.end(Outcome.STOPPED)
        self._waiting.clear()
        self._give_back(self._waiting_bytes)

    def __aiter__(self) -> Capture:
        return self

    async def __anext__(self) -> ResidualRows:
        while not self._waiting:
            if self.outcome is not None:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        rows = self._waiting.popleft()
        self._give_back(len(rows.values))
        return rows

    def joined(self, rows: ResidualRows) -> ResidualRows:
        """`rows` with those that wait and go on from its positions, up to `JOINED_BYTES`; they are taken by it."""
        parts, left = [rows.values], deque[ResidualRows]()
        size, end = len(rows.values), rows.first_position + rows.row_count
        for one in self._waiting:
            goes_on = one.hook_point == rows.hook_point and one.first_position == end
            if goes_on and size + len(one.values) <= JOINED_BYTES:
                parts.append(one.values)
                size += len(one.values)
                end += one.row_count
                self._give_back(len(one.values))
            else:
                left.append(one)
        if len(parts) == 1:
            return rows
        self._waiting = left
        joined = ResidualRows(values=b"".join(parts), row_count=end - rows.first_position)
        joined.capture_id, joined.handle, joined.hook_point = rows.capture_id, rows.handle, rows.hook_point
        joined.first_position, joined.width, joined.dtype = rows.first_position, rows.width, rows.dtype
        return joined

    def _take_rows(self, rows: ResidualRows) -> None:
        if rows.hook_point not in self._seen:
            raise WireFormatError(f"hook point {rows.hook_point!r}, asked for {', '.join(self._seen)}")
        if rows.hook_point not in self._open:
            raise WireFormatError(f"rows of {rows.hook_point} after its last message")
        check_residual_rows(rows)
        width, dtype = self._width or rows.width, self._dtype or rows.dtype
        if (rows.width, rows.dtype) != (width, dtype) or not width:
            raise WireFormatError(f"{rows.dtype} rows of width {rows.width}, expected {dtype} of {width}")
        end = rows.first_position + rows.row_count
        if end > self._max_positions:
            raise WireFormatError(f"positions {rows.first_position} to {end - 1} of at most {self._max_positions}")
        seen_p = self._seen[rows.hook_point]
        if end > seen_p.size:
            seen_p = self._seen[rows.hook_point] = np.pad(seen_p, (0, max(end, 2 * seen_p.size) - seen_p.size))
        span = seen_p[rows.first_position : end]
        if span.any():
            raise WireFormatError(f"positions {rows.first_position} to {end - 1} of {rows.hook_point} sent again")
        size = len(rows.values)
        if self._waiting_bytes + size > MOST_WAITING_BYTES or not self._reserve(size):
            self.overflowed = True
            raise WireFormatError(f"{self._waiting_bytes} bytes wait already")
        span[:] = True
        self._width, self._dtype = width, dtype
        self.counts[rows.hook_point] += rows.row_count
        self._waiting.append(rows)
        self._waiting_bytes += size
        self._changed.set()

    def _give_back(self, size: int) -> None:
        self._waiting_bytes -= size
        self._reserve(-size)
