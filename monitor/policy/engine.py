"""Judges rows of many requests against all detectors and rules of a policy set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from monitor.policy.arrays import extended, lines, plain
from monitor.policy.compiled import DirectionRef, PolicySet
from monitor.policy.kernel import advance_rows
from monitor.policy.slots import Peaks, SlotLayout
from monitor.policy.tables import DetectorTable, RuleTable


@dataclass(frozen=True)
class Firing:
    """A rule began to fire: `row` in the call to `advance`, `rule` in `PolicySet.rules`."""

    row: int
    rule: int


class Contribution(NamedTuple):
    """What a direction adds to a token's score: `amount` is weight times activation. `over` says whether that is over
    the direction's bound; None where the detector does not count."""

    direction: DirectionRef
    activation: float
    amount: float
    over: bool | None


@dataclass(frozen=True)
class Judgement:
    """What `advance` found, one line per row and one column per detector of the policy set.

    Attributes:
        token_scores_nd: float32, the score of this token alone; NaN where the row was not judged.
        scores_nd: float64, the aggregate after this row; NaN as long as nothing was judged.
        states_nd: int8, codes of `DetectorState` after this row.
        firings: in order of rows. A rule fires once its condition has held for its `for` tokens, and again only
            after the condition was false.
        snapshots_mf: float64, the states that were asked for with `save_n`.
    """

    token_scores_nd: npt.NDArray[np.float32]
    scores_nd: npt.NDArray[np.float64]
    states_nd: npt.NDArray[np.int8]
    firings: tuple[Firing, ...]
    snapshots_mf: npt.NDArray[np.float64]


class PolicyEngine:
    """Detector and rule state of live requests, one slot each.

    The result depends only on each request's own rows and their order, never on how they were cut into calls or
    mixed with other requests: arithmetic is float64 and sequential per request. A token's score is rounded to float32
    before it is aggregated, so that recorded scores are judged alike. One call at a time; the kernel runs without the
    GIL. The constructor compiles the kernel, so that the first request does not wait for it.

    A row is judged by a detector if the detector's policy judges the request (`open`), its token class is not skipped,
    its phase is wanted, and the detector's own activations and the token's score are finite. A rule advances on a row
    that at least one of the detectors it names has judged.
    """

    def __init__(self, policies: PolicySet, capacity: int = 64) -> None:
        self.policies = policies
        detectors, rules = DetectorTable.build(policies), RuleTable.build(policies)
        self._layout = SlotLayout.build(policies, detectors, rules)
        self._places = self._layout.places
        self._detectors = (
            detectors.starts,
            detectors.columns,
            detectors.weights,
            detectors.bounds,
            detectors.ints_d7,
            detectors.floats_d8,
            detectors.judges_cpw,
        )
        self._rules = (
            rules.program_starts,
            rules.programs,
            rules.detector_starts,
            rules.detectors,
            rules.holds,
        )
        self._judged_d = np.zeros(len(policies.detectors), np.uint8)
        self._state_sf = np.zeros((0, self._layout.size), np.float64)
        self._live_s = np.zeros(0, np.bool_)
        self._free: list[int] = []
        self._names = {*self._layout.detector_owners, *(policy.name for policy in policies.policies)}
        self._grow(max(1, capacity))
        empty = np.zeros(0, np.uint8)
        self.advance(np.zeros((0, len(policies.directions)), np.float32), np.zeros(0, np.int64), empty, empty)

    def open(self, policies: Collection[str] | None = None) -> int:
        """A slot in its initial state for one request.

        Args:
            policies: names of the policies that judge the request; None: all. Detectors of the others judge nothing,
                and none of their rules ever fires, not even one whose condition is true from the start.

        Raises:
            ValueError: a policy is not in the set.
        """
        judging = None if policies is None else frozenset(policies)
        if judging is not None and not judging <= self._names:
            unknown, known = min(judging - self._names), ", ".join(sorted(self._names))
            raise ValueError(f"policy {unknown!r} is not in this set of policies ({known})")
        if not self._free:
            self._grow(2 * self._live_s.size)
        slot = self._free.pop()
        self._state_sf[slot] = self._layout.fresh(judging)
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
        token_scores = np.empty((num_rows, num_detectors), np.float32)
        scores = np.empty((num_rows, num_detectors), np.float64)
        states = np.empty((num_rows, num_detectors), np.int8)
        # A rule fires at most once per row; pages that stay untouched cost nothing.
        fired = np.empty((num_rows * len(self.policies.rules), 2), np.int64)
        count = advance_rows(
            plain(acts_nk, np.float32),
            slots_n,
            plain(classes_n, np.uint8),
            plain(phases_n, np.uint8),
            plain(positions_n, np.int64),
            save_n,
            self._detectors,
            self._rules,
            self._places,
            self._state_sf,
            self._judged_d,
            token_scores,
            scores,
            states,
            fired,
            snapshots_mf,
        )
        firings = tuple(Firing(row, rule) for row, rule in fired[:count].tolist())
        return Judgement(token_scores, scores, states, firings, snapshots_mf)

    @property
    def snapshot_bytes(self) -> int:
        """Size of one slot, and the most that a snapshot of one has."""
        return 8 * self._layout.size

    def snapshot(self, line_f: npt.NDArray[np.float64]) -> bytes:
        """What to keep of a line of `Judgement.snapshots_mf`."""
        return self._layout.pack(line_f)

    def restore(self, slot: int, snapshot: bytes) -> None:
        """Gives an open slot the state of a `snapshot`, of any engine of an equal policy set and of a request that the
        same policies judge. From then on it judges as the slot that was saved would have. Raises ValueError."""
        self._require_open(np.array([slot], np.int64))
        self._state_sf[slot] = self._layout.read(snapshot, self._state_sf[slot])

    def peaks(self, slot: int) -> Peaks:
        """What the detectors reached on an open slot's request so far; raises ValueError."""
        self._require_open(np.array([slot], np.int64))
        return self._layout.peaks(self._state_sf[slot])

    def contributions(self, detector: int, acts_k: npt.NDArray[np.float32]) -> list[Contribution]:
        """What each direction of a detector adds to a token's score, strongest first; where the detector counts, those
        over their bounds come before the others.

        Args:
            detector: index into `PolicySet.detectors`.
            acts_k: one row of activations.

        Returns:
            One per direction. The token's score is the sum of the amounts, or the first of them when the detector
            combines by max, plus the detector's bias; where it counts, 1 if enough of them are over and else 0.
        """
        compiled = self.policies.detectors[detector]
        bounds = compiled.bounds or (None,) * len(compiled.columns)
        found = []
        for column, weight, bound in zip(compiled.columns, compiled.weights, bounds, strict=True):
            activation = float(acts_k[column])
            amount = weight * activation
            over = None if bound is None else amount > bound
            found.append(Contribution(self.policies.directions[column], activation, amount, over))
        return sorted(found, key=lambda part: (bool(part.over), part.amount), reverse=True)

    def _require_open(self, slots_n: npt.NDArray[np.int64]) -> None:
        inside = (slots_n >= 0) & (slots_n < self._live_s.size)
        if not inside.all() or not self._live_s[slots_n].all():
            bad = [int(slot) for slot in slots_n if not 0 <= slot < self._live_s.size or not self._live_s[slot]]
            raise ValueError(f"slot {bad[0]} is not open")

    def _grow(self, capacity: int) -> None:
        before = self._live_s.size
        self._state_sf = extended(self._state_sf, capacity)
        self._live_s = extended(self._live_s, capacity)
        self._free.extend(range(capacity - 1, before - 1, -1))
