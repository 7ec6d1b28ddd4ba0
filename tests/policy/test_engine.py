"""What the engine's words mean: hysteresis, minTokens, skip, phases, `for`, slots."""

from __future__ import annotations

import numpy as np
import pytest
from engine_runs import judge, states
from policy_samples import TEMPLATE_CLASSES, detector, policy_set

from monitor.policy import (
    DetectorState,
    Firing,
    Judgement,
    Phase,
    PolicyEngine,
    PolicySet,
    TokenClass,
    kernel,
    slots,
    tables,
    vocabulary,
)

CLEAR, WARN, FIRE = DetectorState.CLEAR, DetectorState.WARN, DetectorState.FIRE
NAN = float("nan")


def test_more_detectors_and_rules_than_one_number_of_a_mask_has_bits() -> None:
    many = [detector(f"d{k}", (k,), policy="p" if k % 2 else "q") for k in range(70)]
    engine = PolicyEngine(policy_set(many, [(f"d{k}.fire", 1) for k in range(70)]))
    rows = np.where(np.arange(70) % 3 == 0, 2.0, 0.0)[None].astype(np.float32)
    for policies, wanted in ((None, range(0, 70, 3)), (["p"], range(3, 70, 6)), (["q"], range(0, 70, 6))):
        slot = engine.open(policies)
        found = engine.advance(rows, np.array([slot]), np.zeros(1, np.uint8), np.full(1, 3, np.uint8))
        assert [firing.rule for firing in found.firings] == list(wanted)
        assert np.flatnonzero(found.states_nd[0] == FIRE).tolist() == list(wanted)


def test_fire_holds_down_to_clear_and_warn_lies_between() -> None:
    low_clear = detector(warn=3.0, fire=5.0, clear=2.0)
    assert states(low_clear, [2.5, 3, 4, 5, 2.5, 2, 1.9]) == [CLEAR, WARN, WARN, FIRE, FIRE, FIRE, CLEAR]
    assert states(low_clear, [3, 2, 1.9, 2.5]) == [WARN, WARN, CLEAR, CLEAR]
    high_clear = detector(warn=3.0, fire=5.0, clear=4.0)
    assert states(high_clear, [5, 4, 3.9, 4.5, 2.9]) == [FIRE, FIRE, WARN, WARN, CLEAR]


def test_leaves_clear_only_after_min_tokens_judged_tokens() -> None:
    one = detector(min_tokens=3, skip=(TokenClass.SPECIAL,))
    found = judge(policy_set([one]), [9, 9, 9, 9], classes=[0, TokenClass.SPECIAL, 0, 0])
    assert found.states_nd[:, 0].tolist() == [CLEAR, CLEAR, CLEAR, FIRE]


@pytest.mark.parametrize("token_class", TEMPLATE_CLASSES)
def test_skipped_classes_leave_score_and_state_as_they_were(token_class: TokenClass) -> None:
    one = detector(aggregate="rolling_mean", window=2, fire=2.0, warn=2.0, clear=2.0, skip=(token_class,))
    found = judge(policy_set([one]), [9, 1, 2, 9, 4], classes=[token_class, 0, 0, token_class, 0])
    np.testing.assert_array_equal(found.token_scores_nd[:, 0], [NAN, 1, 2, NAN, 4])
    np.testing.assert_array_equal(found.scores_nd[:, 0], [NAN, 1, 1.5, 1.5, 3])
    assert found.states_nd[:, 0].tolist() == [CLEAR, CLEAR, CLEAR, CLEAR, FIRE]


def test_only_wanted_phases_are_judged() -> None:
    one = detector(phases=(Phase.RESPONSE,))
    found = judge(policy_set([one]), [9, 9], phases=[Phase.PROMPT, Phase.RESPONSE])
    assert found.states_nd[:, 0].tolist() == [CLEAR, FIRE]
    assert np.isnan(found.scores_nd[0, 0])


@pytest.mark.parametrize("odd", [NAN, float("inf"), float("-inf")])
@pytest.mark.parametrize("combine", ["weighted_sum", "max", "any", "all", "k_of_n"])
def test_a_row_with_an_odd_activation_is_not_judged(odd: float, combine: str) -> None:
    counts = {"any": 1, "all": 2, "k_of_n": 1}
    fields = {"bounds": (0.0, 0.0), "least": counts[combine]} if combine in counts else {}
    policies = policy_set(
        [detector("a", (0, 1), combine=combine, aggregate="max", **fields), detector("b", (2,))], [("a.fire", 2)]
    )
    engine = PolicyEngine(policies)
    rows = np.array([[2, 2, 0], [2, odd, 0], [2, 2, 0]], np.float32)
    found = engine.advance(rows, np.full(3, engine.open()), np.zeros(3, np.uint8), np.full(3, 3, np.uint8))
    assert np.isnan(found.token_scores_nd[1, 0])
    assert found.scores_nd[1, 0] == found.scores_nd[0, 0]
    assert found.token_scores_nd[1, 1] == 0, "a detector with other directions judges the row"
    assert found.firings == (Firing(2, 0),), "`for` counts judged tokens"


def test_unknown_token_classes_and_phases_are_not_judged() -> None:
    found = judge(policy_set([detector()]), [9, 9], classes=[64, 0], phases=[3, 200])
    assert np.isnan(found.token_scores_nd).all()


def test_a_rule_fires_once_after_for_tokens_and_again_after_it_cleared() -> None:
    found = judge(policy_set([detector()], [("d.fire", 2)]), [2, 2, 2, 2, 0, 2, 0, 2, 2])
    assert found.firings == (Firing(1, 0), Firing(8, 0))


def test_a_negated_rule_holds_from_the_first_judged_token() -> None:
    one = detector(skip=(TokenClass.BOS,))
    found = judge(policy_set([one], [("not d.fire", 1)]), [0, 0, 2, 0], classes=[TokenClass.BOS, 0, 0, 0])
    assert found.firings == (Firing(1, 0), Firing(3, 0))


def test_all_rules_are_evaluated() -> None:
    found = judge(policy_set([detector("a"), detector("b")], [("a.fire", 1), ("b.fire", 1), ("a.fire", 1)]), [2])
    assert found.firings == (Firing(0, 0), Firing(0, 1), Firing(0, 2))


def test_warn_includes_fire_and_clear_means_clear() -> None:
    one = detector(warn=1.0, fire=2.0, clear=1.0)
    policies = policy_set([one], [("d.warn", 1), ("d.clear", 1), ("d.fire", 1)])
    assert judge(policies, [1.5]).firings == (Firing(0, 0),)
    assert judge(policies, [2.5]).firings == (Firing(0, 0), Firing(0, 2))
    assert judge(policies, [0.5]).firings == (Firing(0, 1),)


def test_long_conditions_fit_the_evaluation_stack() -> None:
    nested = " or (d.fire and ".join(["d.fire"] * 29) + ")" * 28
    policies = policy_set([detector()], [(nested, 1), (" and ".join(["d.fire"] * 60), 1)])
    assert judge(policies, [0, 2]).firings == (Firing(1, 0), Firing(1, 1))


def test_slots_grow_keep_their_state_and_start_afresh_when_reused() -> None:
    policies = policy_set([detector(aggregate="rolling_mean", window=3)], [("d.fire", 2)])
    engine = PolicyEngine(policies, capacity=1)

    def one_row(slot: int, value: float) -> Judgement:
        return engine.advance(
            np.array([[value]], np.float32), np.array([slot]), np.zeros(1, np.uint8), np.full(1, 3, np.uint8)
        )

    first = engine.open()
    one_row(first, 4)
    others = [engine.open() for _ in range(200)]
    assert len({first, *others}) == 201
    assert one_row(first, 8).scores_nd[0, 0] == 6
    engine.close(first)
    again = engine.open()
    assert again == first
    found = one_row(again, 2)
    assert found.scores_nd[0, 0] == 2
    assert found.firings == ()


def test_refuses_rows_of_slots_that_are_not_open() -> None:
    engine = PolicyEngine(policy_set([detector()]))
    slot = engine.open()
    engine.close(slot)
    row = (np.zeros(1, np.uint8), np.zeros(1, np.uint8))
    for bad in (slot, -1, 10_000):
        with pytest.raises(ValueError, match=f"slot {bad} is not open"):
            engine.advance(np.zeros((1, 1), np.float32), np.array([bad]), *row)
        with pytest.raises(ValueError, match=f"slot {bad} is not open"):
            engine.close(bad)


def test_refuses_arrays_that_do_not_belong_together() -> None:
    engine = PolicyEngine(policy_set([detector()]))
    slots, codes = np.array([engine.open()]), np.zeros(1, np.uint8)
    for acts, classes in ((np.zeros((1, 2)), codes), (np.zeros((2, 1)), codes), (np.zeros((1, 1)), np.zeros(2))):
        with pytest.raises(ValueError, match="expected"):
            engine.advance(acts.astype(np.float32), slots, classes.astype(np.uint8), codes)


def test_no_call_compiles_after_the_constructor_has() -> None:
    engine = PolicyEngine(policy_set([detector("a"), detector("b", (1,))]))
    compiled = len(kernel.advance_rows.signatures)
    acts = np.frombuffer(np.arange(8, dtype=np.float32).tobytes(), np.float32).reshape(4, 2)
    strided = np.asfortranarray(np.arange(8, dtype=np.float64).reshape(4, 2))
    slots = [engine.open()] * 4
    for rows in (acts, strided):
        result = engine.advance(rows, np.array(slots, np.int32), np.zeros(4, np.int64), np.full(4, 3, np.int64))
        np.testing.assert_array_equal(result.token_scores_nd, rows)
    assert len(kernel.advance_rows.signatures) == compiled == 1


def test_an_empty_policy_set_judges_nothing() -> None:
    engine = PolicyEngine(PolicySet())
    found = engine.advance(
        np.zeros((3, 0), np.float32), np.full(3, engine.open()), np.zeros(3, np.uint8), np.zeros(3, np.uint8)
    )
    assert found.scores_nd.shape == (3, 0)
    assert found.firings == ()


def test_the_kernel_repeats_the_codes_of_tables_and_vocabulary() -> None:
    assert (kernel._SUM, kernel._HIGHEST) == (tables.SUM, tables.HIGHEST)
    kinds = (kernel._EMA, kernel._ROLLING_MEAN, kernel._MAX, kernel._COUNT_OVER, kernel._CUSUM)
    assert kinds == (tables.EMA, tables.ROLLING_MEAN, tables.MAX, tables.COUNT_OVER, tables.CUSUM)
    assert (kernel._AND, kernel._OR, kernel._NOT) == (vocabulary.AND, vocabulary.OR, vocabulary.NOT)
    assert (kernel._CLEAR, kernel._WARN, kernel._FIRE) == (CLEAR, WARN, FIRE)
    assert (kernel._WORD, 1 << kernel._WORD_SHIFT) == (tables.WORD_BITS, tables.WORD_BITS)
    assert kernel._PER_DETECTOR == slots.PER_DETECTOR
    read = (kernel._SCORE, kernel._STATE, kernel._PEAK, kernel._PEAK_STATE)
    assert read == (slots.SCORE, slots.STATE, slots.PEAK, slots.PEAK_STATE)
