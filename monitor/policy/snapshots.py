"""The state of one request as a row of numbers, to be kept outside of the engine and put back later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Peaks:
    """What each detector d reached on one request; NaN and 0 where it has judged nothing.

    Attributes:
        scores_d: float64, highest aggregated score.
        positions_d: int64, the first position that had it.
        states_d: int8, the highest state.
    """

    scores_d: Floats
    positions_d: npt.NDArray[np.int64]
    states_d: npt.NDArray[np.int8]


@dataclass(frozen=True)
class SnapshotLayout:
    """Where each part of a slot's state lies in the row: memory (4 per detector), peaks (3), states (1), rings, then
    held tokens and truth per rule. All are numbers that float64 holds exactly."""

    num_detectors: int
    ring_size: int
    num_rules: int

    @property
    def size(self) -> int:
        """Numbers of a row."""
        return 8 * self.num_detectors + self.ring_size + 2 * self.num_rules

    def write(self, snapshot_f: Floats, state: tuple[npt.NDArray[Any], ...], slot: int) -> None:
        """Puts a row into a slot of the engine's state arrays; the reverse of `kernel.save_slot`.

        Raises:
            ValueError: the row is of another layout.
        """
        if snapshot_f.shape != (self.size,):
            raise ValueError(f"snapshot has shape {snapshot_f.shape}, this policy set's have ({self.size},)")
        d, r = self.num_detectors, self.num_rules
        w = 8 * d + self.ring_size
        memory, peaks, states = snapshot_f[: 4 * d], snapshot_f[4 * d : 7 * d], snapshot_f[7 * d : 8 * d]
        rings, held, true = snapshot_f[8 * d : w], snapshot_f[w : w + r], snapshot_f[w + r :]
        memory_sd4, peaks_sd3, states_sd, rings_sw, held_sr, true_sr, true_count_s, _ = state
        memory_sd4[slot] = memory.reshape(d, 4)
        peaks_sd3[slot] = peaks.reshape(d, 3)
        states_sd[slot], rings_sw[slot] = states, rings
        held_sr[slot], true_sr[slot] = held, true
        true_count_s[slot] = int(true.sum())
