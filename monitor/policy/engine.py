"""Judges rows of many requests against all detectors and rules of a policy set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.policy.arrays import extended, lines, plain
from monitor.policy.compiled import DirectionRef, PolicySet
from monitor.policy.kernel import advance_rows
from monitor.policy.snapshots import Peaks, SnapshotLayout
from monitor.policy.tables import DetectorTable, RuleTable
from monitor.policy.vocabulary import DetectorState


@dataclass(frozen=True)
class Firing:
    """A rule began to fire: `row` in the call to `advance`, `rule` in `PolicySet.rules`."""

    row: int
    rule: int


@dataclass(frozen=True)
class Judgement:
    """What `advance` found, one line per row and one column per detector of the policy set.

    Attributes:
        token_scores_nd: float64, the score of this token alone; NaN where the row was not judged.
        scores_nd: float64, the aggregate after this row; NaN as long as nothing was judged.
        states_nd: int8, codes of `DetectorState` after this row.
        firings: in order of rows. A rule fires once its condition has held for its `for` tokens, and again only
            after the condition was false.
        snapshots_mf: float64, the states that were asked for with `save_n`.
    """

    token_scores_nd: npt.NDArray[np.float64]
    scores_nd: npt.NDArray[np.float64]
    states_nd: npt.NDArray[np.int8]
    firings: tuple[Firing, ...]
    snapshots_mf: npt.NDArray[np.float64]


class PolicyEngine:
    """Detector and rule state of live requests, one slot each.

    The result depends only on each request's own rows and their order, never on how they were cut into calls or
    mixed with other requests: arithmetic is float64 and sequential per request. One call at a time; the kernel
    runs without the GIL. The constructor compiles the kernel, so that the first request does not wait for it.

    A row is judged by a detector if its token class is not skipped, its phase is wanted and the token's score is
    finite (no NaN or infinity in the detector's own activations). A rule advances on a row that at least one of the
    detectors it names has judged.
    """

    def __init__(self, policies: PolicySet, capacity: int = 64) -> None:
        self.policies = policies
        detectors, rules = DetectorTable.build(policies), RuleTable.build(policies)
        self._detectors = (
            detectors.starts,
            detectors.columns,
            detectors.weights,
            detectors.ints_d8,
            detectors.floats_d7,
        )
        self._rules = (
            rules.program_starts,
            rules.programs,
            rules.detector_starts,
            rules.detectors,
            rules.holds,
        )
        self._rules_at_rest = rules.at_rest
        self._judged_d = np.zeros(len(policies.detectors), np.uint8)
        num_detectors, num_rules = len(policies.detectors), len(policies.rules)
        self._state: tuple[npt.NDArray[Any], ...] = (
            np.zeros((0, num_detectors, 4), np.float64),
            np.zeros((0, num_detectors, 3), np.float64),
            np.zeros((0, num_detectors), np.int8),
            np.zeros((0, detectors.ring_size), np.float64),
            np.zeros((0, num_rules), np.int64),
            np.zeros((0, num_rules), np.uint8),
            np.zeros(0, np.int64),
            np.zeros((0, num_detectors), np.uint8),
        )
        self._layout = SnapshotLayout(num_detectors, detectors.ring_size, num_rules)
        self._live_s = np.zeros(0, np.bool_)
        self._free: list[int] = []
        self._grow(max(1, capacity))
        empty = np.zeros(0, np.uint8)
        self.advance(np.zeros((0, len(policies.directions)), np.float32), np.zeros(0, np.int64), empty, empty)

    def open(self, policies: Collection[str] | None = None) -> int:
        """A slot in its initial state for one request.

        Args:
            policies: names of the policies that judge the request; None: all. Detectors of the others judge nothing,
                so none of their rules ever fires, not even one whose condition is true from the start.

        Raises:
            ValueError: a policy is not in the set.
        """
        watched_d = self._watched(policies)
        if not self._free:
            self._grow(2 * self._live_s.size)
        slot = self._free.pop()
        memory, peaks, states, rings, held, true, true_count, watched = self._state
        memory[slot], peaks[slot], rings[slot], held[slot] = 0.0, 0.0, 0.0, 0
        states[slot] = DetectorState.CLEAR
        true[slot] = self._rules_at_rest
        true_count[slot] = self._rules_at_rest.sum()
        watched[slot] = watched_d
        self._live_s[slot] = True
        return slot

    def close(self, slot: int) -> None:
        """Gives the slot back; raises ValueError if it is not open."""
        self._require_open(np.array([slot], np.int64))
        self._live_s[slot] = False
        self._free.append(slot)

    def advance(
        self,
        acts_nk: npt.NDArray[np.float32],
        slots_n: npt.NDArray[np.int64],
        classes_n: npt.NDArray[np.uint8],
        phases_n: npt.NDArray[np.uint8],
        *,
        positions_n: npt.NDArray[np.int64] | None = None,
        save_n: npt.NDArray[np.int64] | None = None,
    ) -> Judgement:
        """Judges rows; those of one request in position order, different requests in any mixture.

        Args:
            acts_nk: activations, columns as in `PolicySet.directions`. A row may be NaN where nothing was seen.
            slots_n: open slot of each row.
            classes_n: codes of `TokenClass`.
            phases_n: codes of `Phase`.
            positions_n: position of each row in its request, for `peaks`; left out: 0.
            save_n: for each row the line of `Judgement.snapshots_mf` that takes the state of its slot after it, or -1.
                The lines are 0 to m - 1, each named once; left out: none.

        Raises:
            ValueError: shapes disagree or a slot is not open.
        """
        num_rows, num_detectors = len(slots_n), len(self.policies.detectors)
        positions_n = np.zeros(num_rows, np.int64) if positions_n is None else positions_n
        shapes = [np.shape(array) for array in (acts_nk, slots_n, classes_n, phases_n, positions_n)]
        expected = [(num_rows, len(self.policies.directions)), *[(num_rows,)] * 4]
        if shapes != expected:
            raise ValueError(f"acts, slots, classes, phases and positions have shapes {shapes}, expected {expected}")
        slots_n = plain(slots_n, np.int64)
        self._require_open(slots_n)
        save_n = np.zeros(0, np.int64) if save_n is None else lines(save_n, num_rows)
        snapshots_mf = np.empty((int(save_n.max(initial=-1)) + 1, self._layout.size), np.float64)
        token_scores = np.empty((num_rows, num_detectors), np.float64)
        scores = np.empty((num_rows, num_detectors), np.float64)
        states = np.empty((num_rows, num_detectors), np.int8)
        # A rule fires at most once per row; pages that stay untouched cost nothing.
        room = num_rows * len(self.policies.rules)
        fired_rows, fired_rules = np.empty(room, np.int64), np.empty(room, np.int64)
        count = advance_rows(
            plain(acts_nk, np.float32),
            slots_n,
            plain(classes_n, np.uint8),
            plain(phases_n, np.uint8),
            plain(positions_n, np.int64),
            save_n,
            self._detectors,
            self._rules,
            self._state,
            self._judged_d,
            token_scores,
            scores,
            states,
            fired_rows,
            fired_rules,
            snapshots_mf,
        )
        firings = tuple(Firing(int(fired_rows[k]), int(fired_rules[k])) for k in range(count))
        return Judgement(token_scores, scores, states, firings, snapshots_mf)

    @property
    def snapshot_bytes(self) -> int:
        """Size of one snapshot."""
        return 8 * self._layout.size

    def restore(self, slot: int, snapshot: bytes) -> None:
        """Gives an open slot the state of a line of `Judgement.snapshots_mf` (its bytes), of any engine of an equal
        policy set. From then on it judges as the slot that was saved would have. Raises ValueError."""
        self._require_open(np.array([slot], np.int64))
        self._layout.write(np.frombuffer(snapshot, np.float64), self._state, slot)

    def peaks(self, slot: int) -> Peaks:
        """What the detectors reached on an open slot's request so far; raises ValueError."""
        self._require_open(np.array([slot], np.int64))
        memory_sd4, peaks_sd3 = self._state[:2]
        scores_d, positions_d, states_d = peaks_sd3[slot].T
        scores_d = np.where(memory_sd4[slot, :, 2] > 0, scores_d, np.nan)
        return Peaks(scores_d, positions_d.astype(np.int64), states_d.astype(np.int8))

    def contributions(self, detector: int, acts_k: npt.NDArray[np.float32]) -> list[tuple[DirectionRef, float, float]]:
        """What each direction of a detector adds to a token's score, strongest first.

        Args:
            detector: index into `PolicySet.detectors`.
            acts_k: one row of activations.

        Returns:
            (direction, activation, weight times activation) per direction. The token's score is their sum, or the
            first of them when the detector combines by max, plus the detector's bias.
        """
        compiled = self.policies.detectors[detector]
        found = [
            (self.policies.directions[column], float(acts_k[column]), weight * float(acts_k[column]))
            for column, weight in zip(compiled.columns, compiled.weights, strict=True)
        ]
        return sorted(found, key=lambda item: item[2], reverse=True)

    def _watched(self, policies: Collection[str] | None) -> npt.NDArray[np.bool_]:
        owners = [detector.policy for detector in self.policies.detectors]
        if policies is None:
            return np.ones(len(owners), np.bool_)
        known = {*owners, *(policy.name for policy in self.policies.policies)}
        if unknown := sorted(set(policies) - known):
            raise ValueError(f"policy {unknown[0]!r} is not in this set of policies ({', '.join(sorted(known))})")
        return np.array([owner in policies for owner in owners], np.bool_)

    def _require_open(self, slots_n: npt.NDArray[np.int64]) -> None:
        inside = (slots_n >= 0) & (slots_n < self._live_s.size)
        if not inside.all() or not self._live_s[slots_n].all():
            bad = [int(slot) for slot in slots_n if not 0 <= slot < self._live_s.size or not self._live_s[slot]]
            raise ValueError(f"slot {bad[0]} is not open")

    def _grow(self, capacity: int) -> None:
        before = self._live_s.size
        self._state = tuple(extended(array, capacity) for array in self._state)
        self._live_s = extended(self._live_s, capacity)
        self._free.extend(range(capacity - 1, before - 1, -1))
