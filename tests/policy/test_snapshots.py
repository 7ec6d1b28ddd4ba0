"""A slot that got a snapshot goes on as the slot that it was taken from."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
from engine_strategies import ANY_FLOAT, JUDGING, Rows, policy_sets, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import detector, policy_set

from monitor.policy import Judgement, PolicyEngine, PolicySet, slots


def advance(
    engine: PolicyEngine, slot: int, given_rows: Rows, first: int, save_n: npt.NDArray[np.int64] | None = None
) -> Judgement:
    """One request's rows, at positions from `first` on."""
    count = len(given_rows.classes_n)
    return engine.advance(
        given_rows.acts_nk,
        np.full(count, slot),
        given_rows.classes_n,
        given_rows.phases_n,
        positions_n=np.arange(first, first + count),
        save_n=save_n,
    )


@given(policy_sets(), rows(ANY_FLOAT), JUDGING, st.data())
def test_a_restored_slot_goes_on_as_the_one_that_was_saved(
    policies: PolicySet, given_rows: Rows, judging: frozenset[str] | None, data: st.DataObject
) -> None:
    with patch.object(slots, "SHORT_RINGS", data.draw(st.sampled_from([0, slots.SHORT_RINGS]), "short rings")):
        require_equal_going_on(policies, given_rows, judging, data)


def require_equal_going_on(
    policies: PolicySet, given_rows: Rows, judging: frozenset[str] | None, data: st.DataObject
) -> None:
    count = len(given_rows.classes_n)
    boundaries = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    save_n = np.full(count, -1)
    save_n[boundaries] = data.draw(st.permutations(range(len(boundaries))))
    cold = PolicyEngine(policies)
    slot = cold.open(judging)
    whole = advance(cold, slot, given_rows, 0, save_n)
    assert whole.snapshots_mf.shape == (len(boundaries), cold.snapshot_bytes // 8)

    other = PolicyEngine(policies, capacity=1)
    for boundary in boundaries:
        restored = other.open(judging)
        # What was judged in the slot before leaves no trace.
        advance(other, restored, given_rows, 7)
        other.restore(restored, cold.snapshot(whole.snapshots_mf[save_n[boundary]]))
        rest = advance(other, restored, given_rows.take(slice(boundary + 1, None)), boundary + 1)
        np.testing.assert_array_equal(rest.scores_nd, whole.scores_nd[boundary + 1 :])
        np.testing.assert_array_equal(rest.states_nd, whole.states_nd[boundary + 1 :])
        assert [(f.row + boundary + 1, f.rule) for f in rest.firings] == [
            (f.row, f.rule) for f in whole.firings if f.row > boundary
        ]
        for mine, cold_run in zip(vars(other.peaks(restored)).values(), vars(cold.peaks(slot)).values(), strict=True):
            np.testing.assert_array_equal(mine, cold_run, strict=True)


@settings(max_examples=50)
@given(policy_sets(), rows(ANY_FLOAT, num_requests=1), st.integers(0, 40))
def test_peaks_are_the_first_of_the_highest_scores(policies: PolicySet, given_rows: Rows, first: int) -> None:
    engine = PolicyEngine(policies)
    slot = engine.open()
    judged = advance(engine, slot, given_rows, first)
    peaks = engine.peaks(slot)
    for d in range(len(policies.detectors)):
        scores_n = judged.scores_nd[:, d]
        if np.isnan(scores_n).all():
            assert np.isnan(peaks.scores_d[d])
            continue
        best = int(np.nanargmax(scores_n))
        assert (peaks.scores_d[d], peaks.positions_d[d]) == (scores_n[best], first + best)
        assert peaks.states_d[d] == judged.states_nd[:, d].max()


def test_saving_does_not_change_what_is_judged() -> None:
    policies = policy_set([detector("a", aggregate="ema", half_life=2.0)], [("a.fire", 2)])
    acts = np.linspace(0, 3, 8, dtype=np.float32)[:, None]
    plain, saving = PolicyEngine(policies), PolicyEngine(policies)
    blank = np.zeros(8, np.uint8)
    one = plain.advance(acts, np.full(8, plain.open()), blank, blank + 1)
    two = saving.advance(acts, np.full(8, saving.open()), blank, blank + 1, save_n=np.arange(8))
    np.testing.assert_array_equal(one.scores_nd, two.scores_nd)
    assert one.firings == two.firings != ()
    assert one.snapshots_mf.size == 0


@pytest.mark.parametrize("save_n", [[0, 0], [1, -1], [0], [0, 2]])
def test_lines_are_named_once_and_without_holes(save_n: list[int]) -> None:
    engine = PolicyEngine(policy_set([detector()]))
    blank = np.zeros(2, np.uint8)
    with pytest.raises(ValueError, match="save_n"):
        engine.advance(np.zeros((2, 1), np.float32), np.full(2, engine.open()), blank, blank, save_n=np.array(save_n))


@pytest.mark.parametrize(("judged", "scores", "words"), [(1, 1, 1), (32, 32, 1), (33, 33, 2), (4999, 4000, 125)])
def test_of_a_long_window_a_snapshot_has_what_is_in_use(judged: int, scores: int, words: int) -> None:
    mean = detector("a", aggregate="rolling_mean", window=4000)
    count = detector("c", aggregate="count_over", window=4000, over=0.5)
    engine = PolicyEngine(policy_set([mean, detector("b", aggregate="max"), count]))
    blank, save_n = np.zeros(judged, np.uint8), np.full(judged, -1)
    save_n[-1] = 0
    slot = engine.open()
    saved = engine.advance(np.ones((judged, 1), np.float32), np.full(judged, slot), blank, blank + 1, save_n=save_n)
    snapshot = engine.snapshot(saved.snapshots_mf[0])
    assert len(snapshot) == engine.snapshot_bytes + 8 * (scores + words - 4000 - 125)
    restored = engine.open()
    engine.restore(restored, snapshot)
    again = np.full((2, 1), 3, np.float32)
    both = engine.advance(again, np.array([slot, restored]), blank[:1].repeat(2), blank[:1].repeat(2) + np.uint8(1))
    np.testing.assert_array_equal(both.scores_nd[0], both.scores_nd[1])
    for wrong in (snapshot[:-8], snapshot + bytes(8), snapshot[:8]):
        with pytest.raises(ValueError, match="snapshot has shape"):
            engine.restore(slot, wrong)


def test_a_snapshot_of_another_policy_set_is_refused() -> None:
    engine = PolicyEngine(policy_set([detector()]))
    with pytest.raises(ValueError, match="snapshot has shape"):
        engine.restore(engine.open(), bytes(engine.snapshot_bytes + 8))
    with pytest.raises(ValueError, match="not open"):
        engine.restore(engine.open() + 1, bytes(engine.snapshot_bytes))


def test_a_snapshot_of_a_request_that_other_policies_judge_is_refused() -> None:
    engine = PolicyEngine(policy_set([detector("a", policy="p"), detector("b", policy="q")], [("a.fire", 1)]))
    blank = np.zeros(1, np.uint8)
    saved = engine.advance(np.ones((1, 1), np.float32), np.array([engine.open(["p"])]), blank, blank, save_n=blank)
    snapshot = engine.snapshot(saved.snapshots_mf[0])
    engine.restore(engine.open({"p"}), snapshot)
    for others in (None, ["q"], []):
        with pytest.raises(ValueError, match="other policies judge"):
            engine.restore(engine.open(others), snapshot)
