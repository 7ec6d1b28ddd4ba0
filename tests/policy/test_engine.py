"""What the engine's words mean: aggregates, hysteresis, minTokens, skip, phases, `for`, slots."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from policy_samples import TEMPLATE_CLASSES, detector, policy_set

from monitor.policy import (
    CompiledDetector,
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


def judge(
    policies: PolicySet,
    values: list[float] | npt.NDArray[np.float64],
    classes: list[int] | None = None,
    phases: list[int] | None = None,
) -> Judgement:
    """One request whose directions all have these activations."""
    engine = PolicyEngine(policies)
    acts = np.repeat(np.array(values, np.float32)[:, None], len(policies.directions), axis=1)
    count = len(values)
    return engine.advance(
        acts,
        np.full(count, engine.open()),
        np.array(classes or [TokenClass.CONTENT] * count, np.uint8),
        np.array(phases or [Phase.RESPONSE] * count, np.uint8),
    )


def states(one: CompiledDetector, values: list[float]) -> list[DetectorState]:
    return [DetectorState(state) for state in judge(policy_set([one]), values).states_nd[:, 0]]


def scores(one: CompiledDetector, values: list[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return judge(policy_set([one]), values).scores_nd[:, 0]


def test_ema_weighs_a_token_half_after_half_life_tokens_and_corrects_its_start() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=50).astype(np.float32).astype(np.float64)
    found = scores(detector(aggregate="ema", half_life=4.0), values)
    for n in range(50):
        weights = 0.5 ** (np.arange(n, -1, -1) / 4.0)
        assert found[n] == pytest.approx((weights * values[: n + 1]).sum() / weights.sum(), rel=1e-12)


def test_ema_of_a_constant_is_that_constant() -> None:
    assert (scores(detector(aggregate="ema", half_life=8.0), [0.1] * 200) == np.float32(0.1)).all()


def test_rolling_mean_forgets_completely_and_never_drifts() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=20_000)
    values[::97] = 1e9
    values = values.astype(np.float32).astype(np.float64)
    found = scores(detector(aggregate="rolling_mean", window=16), values)
    exact = np.lib.stride_tricks.sliding_window_view(values, 16).mean(axis=1)
    np.testing.assert_allclose(found[15:], exact, rtol=1e-12)
    assert found[3] == pytest.approx(values[:4].mean())


def test_max_keeps_the_highest_token() -> None:
    assert scores(detector(aggregate="max"), [1, 3, 2, 4, 0]).tolist() == [1, 3, 3, 4, 4]


def test_then_max_begins_after_the_cold_start() -> None:
    one = detector(aggregate="rolling_mean", window=1, then_max=True, min_tokens=3)
    assert scores(one, [9, 8, 1, 3, 2]).tolist() == [9, 8, 1, 3, 3]


def test_combines_by_weighted_sum_and_by_maximum() -> None:
    rows = np.array([[1.0, 2.0, 3.0]], np.float32)
    for combine, expected in (("weighted_sum", 1 * 2 - 2 + 3 * 0.5 + 0.25), ("max", 2.25)):
        policies = policy_set([detector("d", (0, 1, 2), weights=(2.0, -1.0, 0.5), bias=0.25, combine=combine)])
        engine = PolicyEngine(policies)
        found = engine.advance(rows, np.array([engine.open()]), np.zeros(1, np.uint8), np.full(1, 3, np.uint8))
        assert found.token_scores_nd[0, 0] == expected


@pytest.mark.parametrize(
    ("combine", "least", "expected"),
    [("any", 1, [0, 1, 1, 1]), ("k_of_n", 2, [0, 0, 1, 1]), ("all", 3, [0, 0, 0, 1])],
)
def test_counting_combines_say_whether_enough_latents_are_over_their_bounds(
    combine: str, least: int, expected: list[float]
) -> None:
    one = detector("d", (0, 1, 2), weights=(2.0, 1.0, -1.0), combine=combine, bounds=(3.0, 0.0, -2.0), least=least)
    engine = PolicyEngine(policy_set([one]))
    rows = np.array([[1.5, 0, 2], [2, 0, 2], [2, 0.5, 2], [2, 0.5, 1]], np.float32)
    found = engine.advance(rows, np.full(4, engine.open()), np.zeros(4, np.uint8), np.full(4, 3, np.uint8))
    assert found.token_scores_nd[:, 0].tolist() == expected


def test_count_over_counts_the_last_tokens_above_its_bound() -> None:
    one = detector(aggregate="count_over", window=3, over=1.0)
    assert scores(one, [2, 1, 2, 2, 2, 0, 0, 0]).tolist() == [1, 1, 2, 2, 3, 2, 1, 0]


@pytest.mark.parametrize("window", [31, 32, 33, 64, 100, 4096])
def test_count_over_has_any_window(window: int) -> None:
    values = (np.random.default_rng(window).random(10_000) < 0.3).astype(np.float64)
    exact = np.convolve(values, np.ones(window))[: values.size]
    np.testing.assert_array_equal(scores(detector(aggregate="count_over", window=window, over=0.5), values), exact)


def test_cusum_adds_up_what_is_above_drift_and_starts_again_at_zero() -> None:
    assert scores(detector(aggregate="cusum", drift=1.0), [0, 2, 2, 0, 0, 0, 3]).tolist() == [0, 1, 2, 1, 0, 0, 2]


def test_mean_is_of_all_judged_tokens() -> None:
    values = np.random.default_rng(3).normal(size=1000).astype(np.float32).astype(np.float64)
    found = scores(detector(aggregate="mean", skip=(TokenClass.SPECIAL,)), values)
    np.testing.assert_allclose(found, values.cumsum() / np.arange(1, 1001), rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "fields"), [("count_over", {"window": 2, "over": 1.0}), ("cusum", {"drift": 1.0}), ("mean", {})]
)
def test_then_max_keeps_the_highest_of_every_kind(kind: str, fields: dict[str, float]) -> None:
    one = detector(aggregate=kind, **fields)
    values = [0.0, 2.0, 3.0, 0.0, 0.0, 0.0, 5.0]
    plain, kept = scores(one, values), scores(replace(one, then_max=True), values)
    assert (np.diff(plain) < 0).any()
    np.testing.assert_array_equal(kept, np.maximum.accumulate(plain))


def test_a_token_score_is_rounded_to_single_precision_before_it_is_smoothed() -> None:
    one = detector("d", (0, 1), weights=(1.0, 1e-9), aggregate="mean")
    engine = PolicyEngine(policy_set([one]))
    rows = np.array([[0.1, 1.0], [0.7, 1.0]], np.float32)
    found = engine.advance(rows, np.full(2, engine.open()), np.zeros(2, np.uint8), np.full(2, 3, np.uint8))
    np.testing.assert_array_equal(found.token_scores_nd[:, 0], rows[:, 0] + np.float32(1e-9))
    exact = found.token_scores_nd[:, 0].astype(np.float64)
    np.testing.assert_array_equal(found.scores_nd[:, 0], [exact[0], (exact[0] + exact[1]) / 2])


def test_a_score_that_single_precision_cannot_hold_is_not_judged() -> None:
    found = judge(policy_set([detector("d", (0,), weights=(1e30,))]), [1e10, 1.0])
    np.testing.assert_array_equal(np.isnan(found.token_scores_nd[:, 0]), [True, False])


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


def test_a_nan_among_the_directions_of_a_maximum_is_not_passed_over() -> None:
    policies = policy_set([detector("a", (0, 1), combine="max")])
    engine = PolicyEngine(policies)
    rows = np.array([[NAN, 2], [2, NAN]], np.float32)
    found = engine.advance(rows, np.full(2, engine.open()), np.zeros(2, np.uint8), np.full(2, 3, np.uint8))
    assert np.isnan(found.token_scores_nd).all()


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


def test_sums_are_taken_in_order_wherever_the_arrays_lie() -> None:
    """Large terms that cancel: reordered, or contracted by address, the sum would be another."""
    rng = np.random.default_rng(7)
    large = rng.normal(size=32) * 1e16
    weights = rng.permutation(np.concatenate([large, -large, rng.normal(size=3)])).tolist()
    engine = PolicyEngine(policy_set([detector("d", tuple(range(67)), weights=tuple(weights))]))
    total = 0.0
    for weight in weights:
        total += weight
    assert len({np.float32(total), np.float32(sum(sorted(weights))), np.float32(math.fsum(weights))}) == 3
    room = np.ones(67 + 16, np.float32)
    for offset in range(16):
        slots = np.array([engine.open()])
        acts = room[None, offset : offset + 67]
        found = engine.advance(acts, slots, np.zeros(1, np.uint8), np.full(1, 3, np.uint8))
        assert found.token_scores_nd[0, 0] == np.float32(total)


def test_an_empty_policy_set_judges_nothing() -> None:
    engine = PolicyEngine(PolicySet())
    found = engine.advance(
        np.zeros((3, 0), np.float32), np.full(3, engine.open()), np.zeros(3, np.uint8), np.zeros(3, np.uint8)
    )
    assert found.scores_nd.shape == (3, 0)
    assert found.firings == ()


def test_contributions_come_strongest_first() -> None:
    policies = policy_set([detector("d", (2, 0, 1), weights=(1.0, -3.0, 2.0), bias=5.0)])
    found = PolicyEngine(policies).contributions(0, np.array([1.0, 4.0, 2.0], np.float32))
    assert [(part.direction.name, part.activation, part.amount, part.over) for part in found] == [
        ("sae/1", 4.0, 8.0, None),
        ("sae/2", 2.0, 2.0, None),
        ("sae/0", 1.0, -3.0, None),
    ]


def test_contributions_of_a_counting_detector_say_what_is_over_its_bound() -> None:
    one = detector("d", (0, 1, 2), weights=(1.0, 1.0, 2.0), combine="k_of_n", bounds=(5.0, 0.0, 0.5), least=2)
    found = PolicyEngine(policy_set([one])).contributions(0, np.array([4.0, 0.0, 0.5], np.float32))
    assert [(part.direction.name, part.amount, part.over) for part in found] == [
        ("sae/2", 1.0, True),
        ("sae/0", 4.0, False),
        ("sae/1", 0.0, False),
    ]


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
