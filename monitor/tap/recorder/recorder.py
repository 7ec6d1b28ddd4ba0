"""The flight recorder: the last residual rows of every hook point, and whose they are.

The engine's thread writes and one other thread reads, without a lock, so that neither waits for the other. Each row of
each forward pass has a number that grows by one; row `n` lies in place `n % slots`. Before a place is written it is
announced (`_reserved`), and a reader that finds a place announced after it has read it throws away what it read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.tap.record import Segment
from monitor.tap.recorder.ring import Ring, make_ring
from monitor.tap.sites import Site

MAX_MESSAGE_BYTES: Final = 256 << 10
"""Rows go in messages of at most this size. A frame may have to wait for one, and the engine's thread for the
interpreter while it is made; larger ones are no faster (`benchmarks/flight_recorder.py`)."""
_HEADER_BYTES: Final = 256

_NOBODY: Final = 0
_SCAN_ROWS: Final = 1 << 16


@dataclass(frozen=True)
class Run:
    """Rows of consecutive positions of one request.

    Attributes:
        first_position: of the first row.
        numbers_n: int64 [n], ascending: the rows' numbers.
    """

    first_position: int
    numbers_n: npt.NDArray[np.int64]


class FlightRecorder:
    """See the module. Memory is the ring's and 8 bytes a place (`INDEX_BYTES`); no request and no row adds to it.

    Args:
        ring: memory for the rows.
        hook_points: names, in the ring's order.
        width: residual width d.
        dtype: of the rows, as ResidualRows name it.
    """

    def __init__(self, ring: Ring, hook_points: Sequence[str], width: int, dtype: str) -> None:
        self._ring = ring
        self.hook_points, self.width, self.dtype = tuple(hook_points), width, dtype
        self._handles_r = np.full(ring.slots, _NOBODY, np.uint32)
        self._positions_r = np.zeros(ring.slots, np.int32)
        # Rows below are written, or are about to be.
        self._reserved = 0
        # Rows below are in the index, as far as they belong to somebody.
        self._settled = 0
        self._live: set[int] = set()

    @property
    def rows(self) -> int:
        """Rows that the ring holds per hook point."""
        return self._ring.slots

    @property
    def nbytes(self) -> int:
        return self._ring.nbytes + self._handles_r.nbytes + self._positions_r.nbytes

    @property
    def most(self) -> int:
        """Rows of one hook point that fit into a message."""
        return most_rows(self._ring.row_bytes)

    # The engine's thread.

    def begin(self, handle: int) -> None:
        self._live.add(handle)

    def end(self, handle: int) -> None:
        """No more rows come; those that are there stay until they are overwritten."""
        self._live.discard(handle)

    def place(self, rows: int) -> int:
        """Copies the rows of the forward pass that has just run. They belong to nobody until `settle`.

        Returns:
            The number of the first row.
        """
        first = self._reserved
        self._reserved = first + rows
        # Of a pass that is larger than the ring, the last rows stay.
        number = max(first, self._reserved - self.rows)
        while number < self._reserved:
            slot = number % self.rows
            count = min(self._reserved - number, self.rows - slot)
            self._handles_r[slot : slot + count] = _NOBODY
            self._ring.write(slot, number - first, count)
            number += count
        return first

    def settle(self, first: int, rows: int, segments: Sequence[Segment], kept: npt.NDArray[np.int64] | None) -> None:
        """Says whose the rows are that `place` copied. Passes are settled in the order in which they were placed; one
        that is never settled leaves rows of nobody.

        Args:
            first: what `place` returned.
            rows: of the pass.
            segments: what the rows to keep are, in their order.
            kept: the rows to keep, int64 [kept]; None for all.
        """
        if segments:
            numbers_n = np.arange(first, first + rows) if kept is None else first + kept
            lengths = [segment.length for segment in segments]
            handles_n = np.repeat(np.array([segment.handle for segment in segments], np.uint32), lengths)
            # Each segment counts on from its first position.
            starts = np.cumsum(lengths) - lengths
            offsets = np.array([segment.first for segment in segments]) - starts
            positions_n = np.repeat(offsets, lengths) + np.arange(len(numbers_n))
            there = slice(int(np.searchsorted(numbers_n, self._reserved - self.rows)), None)
            slots_n = numbers_n[there] % self.rows
            self._positions_r[slots_n] = positions_n[there]
            self._handles_r[slots_n] = handles_n[there]
        self._settled = first + rows

    # The reading thread.

    @property
    def settled(self) -> int:
        """Number of rows that `find` can know of."""
        return self._settled

    def live(self, handle: int) -> bool:
        """True when more rows of the request may come. Ask before `settled`, or the last rows are missed."""
        return handle in self._live

    def find(self, handle: int, start: int, stop: int) -> Run | None:
        """The request's first run of rows with numbers in [start, stop) that are still there, of at most `most` rows;
        None when there is none."""
        number = max(start, self._reserved - self.rows)
        while number < stop and handle != _NOBODY:
            slot = number % self.rows
            count = min(stop - number, self.rows - slot, _SCAN_ROWS)
            run = self._run_in(handle, number, slot, count)
            if run is not None:
                return run
            number += count
        return None

    def _run_in(self, handle: int, number: int, slot: int, count: int) -> Run | None:
        found_n = np.flatnonzero(self._handles_r[slot : slot + count] == handle)
        positions_n = self._positions_r[slot + found_n]
        numbers_n = number + found_n
        there = self._still_there(numbers_n)
        numbers_n, positions_n = numbers_n[there], positions_n[there]
        if not len(numbers_n):
            return None
        jumps = np.flatnonzero(np.diff(positions_n) != 1)
        length = min(int(jumps[0]) + 1 if len(jumps) else len(numbers_n), self.most)
        return Run(int(positions_n[0]), numbers_n[:length])

    def read(self, hook: int, run: Run) -> tuple[Run, npt.NDArray[np.uint8]]:
        """What is still there of a run at the `hook`-th hook point: its rows [n, bytes of a row], as they were written.
        The oldest may be missing. Valid until the next call."""
        rows = self._ring.read(hook, run.numbers_n % self.rows)
        there = self._still_there(run.numbers_n)
        return Run(run.first_position + there.start, run.numbers_n[there]), rows[there]

    def forget(self, segments: Sequence[Segment]) -> None:
        """These rows turned out not to be the residual stream. One that is recorded at this moment may go with them."""
        for handle, first, length in segments:
            of_pass = (self._positions_r >= first) & (self._positions_r < first + length)
            self._handles_r[np.flatnonzero((self._handles_r == handle) & of_pass)] = _NOBODY

    def _still_there(self, numbers_n: npt.NDArray[np.int64]) -> slice:
        """Those of ascending row numbers whose places no later row has been announced for, until now."""
        return slice(int(np.searchsorted(numbers_n, self._reserved - self.rows)), len(numbers_n))


def make_recorder(sites: Sequence[Site], mib: int) -> FlightRecorder | None:
    """A recorder that holds at most `mib` MiB over all sites, on their device; None when it is 0.

    Raises:
        FeaturewatchError: not one row fits.
    """
    if mib == 0:
        return None
    width, dtype = sites[0].buffer_nd.shape[1], str(sites[0].buffer_nd.dtype).removeprefix("torch.")
    ring = make_ring(sites, mib, most_rows(sites[0].buffer_nd[0].nbytes))
    return FlightRecorder(ring, [str(site.hook_point) for site in sites], width, dtype)


def most_rows(row_bytes: int) -> int:
    """Rows of one hook point that fit into a message; at least one."""
    return max((MAX_MESSAGE_BYTES - _HEADER_BYTES) // row_bytes, 1)
