"""What a token's score is, and what each kind of aggregate makes of scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from engine_runs import judge, scores
from policy_samples import detector, policy_set

from monitor.policy import PolicyEngine, TokenClass

NAN = float("nan")


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


def test_a_nan_among_the_directions_of_a_maximum_is_not_passed_over() -> None:
    policies = policy_set([detector("a", (0, 1), combine="max")])
    engine = PolicyEngine(policies)
    rows = np.array([[NAN, 2], [2, NAN]], np.float32)
    found = engine.advance(rows, np.full(2, engine.open()), np.zeros(2, np.uint8), np.full(2, 3, np.uint8))
    assert np.isnan(found.token_scores_nd).all()


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
