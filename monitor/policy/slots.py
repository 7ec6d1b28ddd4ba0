"""The state of one request as a row of numbers: its slot in the engine, and the snapshot that is kept outside of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from monitor.policy.compiled import PolicySet
from monitor.policy.tables import DetectorTable, RuleTable, mask_words, packed

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Numbers of a detector: value, place, judged tokens, score, state, highest score, its position, highest state.
PER_DETECTOR = 8
COUNT, SCORE, STATE, PEAK, PEAK_STATE = 2, 3, 4, 5, 7
#: Numbers of all rings together; up to that many a snapshot takes less time than to find out what of them is in use.
SHORT_RINGS = 1024
_CLEAR = 1.0


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
class SlotLayout:
    """Where each part of a request's state lies in its row, all of it numbers that float64 holds exactly.

    In this order: rules whose condition is true and that wait for their `for`; masks of the detectors and of the rules
    that judge the request; one number per rule; eight per detector; the rings.
    """

    detectors: DetectorTable
    rules: RuleTable
    #: Of each detector and of each rule, its policy.
    detector_owners: tuple[str, ...]
    rule_owners: tuple[str, ...]

    @classmethod
    def build(cls, policies: PolicySet, detectors: DetectorTable, rules: RuleTable) -> SlotLayout:
        owners = tuple(detector.policy for detector in policies.detectors)
        return cls(detectors, rules, owners, tuple(rule.policy for rule in policies.rules))

    @cached_property
    def places(self) -> tuple[int, int, int, int]:
        """Where the masks of the rules begin, the rules' numbers, the detectors' and the rings."""
        rule_masks = 1 + mask_words(len(self.detector_owners))
        rules = rule_masks + mask_words(len(self.rule_owners))
        detectors = rules + len(self.rule_owners)
        return rule_masks, rules, detectors, detectors + PER_DETECTOR * len(self.detector_owners)

    @cached_property
    def size(self) -> int:
        """Numbers of a row."""
        return self.places[-1] + self.detectors.ring_size

    def fresh(self, policies: frozenset[str] | None) -> Floats:
        """The row of a request that has begun; `policies` judge it, None: all."""
        rule_masks, first_rule, first_detector, first_ring = self.places
        row = np.zeros(self.size, np.float64)
        watched_d, watched_r = _watched(self.detector_owners, policies), _watched(self.rule_owners, policies)
        row[1:rule_masks], row[rule_masks:first_rule] = packed(watched_d), packed(watched_r)
        waiting_r = self.rules.at_rest.astype(np.bool_) & watched_r
        row[first_rule:first_detector] = np.where(waiting_r, 0.0, -1.0)
        row[0] = waiting_r.sum()
        memory_d8 = row[first_detector:first_ring].reshape(-1, PER_DETECTOR)
        memory_d8[:, SCORE] = memory_d8[:, PEAK] = np.nan
        memory_d8[:, STATE] = memory_d8[:, PEAK_STATE] = _CLEAR
        return row

    def pack(self, row: Floats) -> bytes:
        """A row to be kept. Long rings are kept as far as they are in use: of a short prefix that is little."""
        if self.detectors.ring_size <= SHORT_RINGS:
            return row.tobytes()
        first_ring = self.places[-1]
        used: Floats = np.concatenate([row[:first_ring], *(row[ring] for ring in self._rings_in_use(row))])
        return used.tobytes()

    def read(self, snapshot: bytes, row: Floats) -> Floats:
        """The row of a snapshot that is meant for the slot with this `row`; raises ValueError when it is not of the
        same detectors and rules, or was judged by other policies."""
        saved = np.frombuffer(snapshot, np.float64)
        if self.detectors.ring_size > SHORT_RINGS:
            saved = self._unpacked(saved)
        if saved.shape != (self.size,):
            raise ValueError(f"snapshot has shape {saved.shape}, this policy set's have ({self.size},)")
        masks = slice(1, self.places[1])
        if not np.array_equal(saved[masks], row[masks]):
            raise ValueError("snapshot is of a request that other policies judge than the slot's")
        return saved

    def _unpacked(self, packed_f: Floats) -> Floats:
        """What `pack` made of a row; anything else comes back as it is, or raises ValueError."""
        at = self.places[-1]
        if packed_f.size < at:
            return packed_f
        row = np.zeros(self.size, np.float64)
        row[:at] = packed_f[:at]
        rings = self._rings_in_use(row)
        size = at + sum(ring.stop - ring.start for ring in rings)
        if packed_f.size != size:
            raise ValueError(f"snapshot has shape {packed_f.shape}, by its tokens it should have ({size},)")
        for ring in rings:
            row[ring] = packed_f[at : at + ring.stop - ring.start]
            at += ring.stop - ring.start
        return row

    def _rings_in_use(self, row: Floats) -> list[slice]:
        """Of each ring the part that holds something: it fills from its beginning, with each token that is judged."""
        _, _, first_detector, first_ring = self.places
        counts_d = row[first_detector:first_ring].reshape(-1, PER_DETECTOR)[:, COUNT]
        starts, used = self.detectors.ring_starts.tolist(), self.detectors.rings_in_use(counts_d).tolist()
        return [slice(first_ring + a, first_ring + a + count) for a, count in zip(starts, used, strict=True) if count]

    def peaks(self, row: Floats) -> Peaks:
        _, _, first_detector, first_ring = self.places
        memory_d8 = row[first_detector:first_ring].reshape(-1, PER_DETECTOR)
        scores_d, positions_d, states_d = memory_d8[:, PEAK : PEAK_STATE + 1].T
        states_d = np.where(np.isnan(scores_d), 0, states_d)
        return Peaks(scores_d.copy(), positions_d.astype(np.int64), states_d.astype(np.int8))


def _watched(owners: tuple[str, ...], policies: frozenset[str] | None) -> Bools:
    return np.array([policies is None or owner in policies for owner in owners], np.bool_)
