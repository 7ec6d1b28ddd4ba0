"""Thresholds: the smallest that keep the target, for detectors and for whole policies."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from calibration_samples import generations, policy

from monitor.calibration import fit as fit_module
from monitor.calibration.fit import TooFewSamplesError, fit_levels, floor_for
from monitor.calibration.judged import Judged, judge
from monitor.calibration.levels import LevelPath, Levels, just_above, stated_levels, with_levels
from monitor.calibration.settings import Method, Scope, Settings
from monitor.errors import FeaturewatchError
from monitor.policy import Mode, Policy
from monitor.policy.binomial import most_hits

N = 400
SETTINGS = Settings(target=0.02)
ALLOWED = most_hits(N, 0.02, 0.95)


def benign(seed: int = 0, count: int = N) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=count), "b": rng.normal(3, 2, size=count)}


def test_the_threshold_is_the_smallest_that_keeps_the_target() -> None:
    scores = benign()
    fit = fit_levels(policy("a.fire"), generations(scores), SETTINGS)
    fire = fit.levels["a"].fire
    assert fit.thresholds == 1
    assert fit.allowed == ALLOWED == 3
    assert fit.judged.flagged_g.sum() == 3
    fourth = np.sort(scores["a"])[-4]
    assert fourth < fire == pytest.approx(fourth, rel=2e-4)


@pytest.mark.parametrize(
    "when", ["a.fire", "a.fire or b.fire", "a.fire and b.warn", "b.warn", "not a.clear", "a.fire and not b.fire"]
)
def test_the_whole_policy_keeps_the_target_and_one_step_looser_does_not(when: str) -> None:
    fit = fit_levels(policy(when), generations(benign()), SETTINGS)
    assert 0 < fit.judged.flagged_g.sum() <= fit.allowed
    # Each threshold beyond the first costs one.
    assert fit.thresholds == len({word for word in when.split() if "." in word})
    assert fit.allowed == ALLOWED + 1 - fit.thresholds


def test_a_rule_of_two_detectors_lets_each_fire_as_often_as_the_whole_permits() -> None:
    either = fit_levels(policy("a.fire or b.fire"), generations(benign()), SETTINGS)
    both = fit_levels(policy("a.fire and b.fire"), generations(benign()), SETTINGS)
    assert either.judged.fired["a"].sum() < ALLOWED < both.judged.fired["a"].sum()
    per_detector = fit_levels(
        policy("a.fire or b.fire"), generations(benign()), dataclasses.replace(SETTINGS, scope=Scope.DETECTOR)
    )
    assert [fired.sum() for fired in per_detector.judged.fired.values()] == [ALLOWED, ALLOWED]
    assert per_detector.judged.flagged_g.sum() > ALLOWED


@pytest.mark.parametrize("when", ["a.fire or b.fire", "a.fire and b.fire"])
def test_the_guarantee_covers_rules_of_two_detectors(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true rate of the whole policy over 400 samples of scores that correlate; the engine is left out, it would
    take minutes."""
    toy, join = policy(when), np.logical_or if " or " in when else np.logical_and

    def drawn(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        shared = rng.normal(size=count)
        return {name: shared + rng.normal(size=count) for name in "ab"}

    def quick(changed: Policy, given: list[dict[str, np.ndarray]]) -> Judged:
        (scores,) = given
        fired = {name: scores[name] >= levels.fire for name, levels in stated_levels(changed).items()}
        flagged_g = join(fired["a"], fired["b"])
        return Judged(scores, fired, {"R1": flagged_g}, flagged_g)

    class Sample(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(self[0]["a"])

    monkeypatch.setattr(fit_module, "judge", quick)
    traffic = drawn(np.random.default_rng(1), 200_000)
    kept = 0
    for seed in range(400):
        levels = fit_levels(toy, Sample([drawn(np.random.default_rng([2, seed]), 480)]), Settings()).levels
        true = join(traffic["a"] >= levels["a"].fire, traffic["b"] >= levels["b"].fire).mean()
        kept += true <= 0.01
    assert kept / 400 >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 400)


def test_more_thresholds_take_more_samples() -> None:
    assert [floor_for(thresholds, 0.01, 0.95) for thresholds in (1, 2, 3)] == [299, 473, 628]
    with pytest.raises(TooFewSamplesError, match="of rules that name 2 thresholds takes at least 473"):
        fit_levels(policy("a.fire or b.fire"), generations(benign()), Settings())


def test_the_empirical_threshold_meets_the_rate_and_not_the_bound() -> None:
    fit = fit_levels(policy("a.fire"), generations(benign()), dataclasses.replace(SETTINGS, method=Method.EMPIRICAL))
    assert fit.judged.flagged_g.sum() == 8 == 0.02 * N


def test_warn_is_five_times_as_frequent_and_clear_keeps_its_place() -> None:
    scores = benign()
    levels = fit_levels(policy("a.fire"), generations(scores), SETTINGS).levels
    assert (scores["a"] >= levels["a"].warn).sum() == 5 * 0.02 * N
    # Stated as 8, 9, 10: halfway.
    assert levels["a"].clear == pytest.approx((levels["a"].warn + levels["a"].fire) / 2, rel=1e-4)
    assert levels["b"].clear is None
    wider = fit_levels(policy("a.fire"), generations(scores), dataclasses.replace(SETTINGS, warn_share=0.25)).levels
    assert (scores["a"] >= wider["a"].warn).sum() == 0.25 * N
    assert wider["a"].fire == levels["a"].fire


def test_clear_without_warn_keeps_its_distance() -> None:
    path = LevelPath(np.arange(100.0), Levels(10.0, None, 7.5), 0, 4)
    assert path.at(4) == Levels(99.001, None, 96.501)


def test_ties_do_not_fire() -> None:
    path = LevelPath(np.array([1.0] * 20 + [0.0] * 80), Levels(1.0, None, None), 3, 3)
    assert path.at(3).fire > 1.0


def test_generations_that_were_not_judged_count_as_silent() -> None:
    scores = benign()
    scores["a"][: N // 2] = np.nan
    fit = fit_levels(policy("a.fire"), generations(scores), SETTINGS)
    assert fit.allowed == ALLOWED
    assert np.isneginf(fit.judged.peaks["a"]).sum() == N // 2


@pytest.mark.parametrize("score", [0.0, 1.0, -1.0, 123456.0, 1e-9, -2.71828182, 99999.0, 1e12, 0.1 + 0.2])
def test_just_above_is_above_and_near(score: float) -> None:
    assert score < just_above(score) <= score + max(1e-6, 1.01e-4 * abs(score))


def test_too_few_samples_are_refused_with_the_number_that_lacks() -> None:
    with pytest.raises(
        TooFewSamplesError, match=r"takes at least 299, even if none of them is flagged. Give 49 more"
    ) as refused:
        fit_levels(policy(), generations(benign(count=250)), Settings())
    assert refused.value.missing == 49


def test_a_detector_that_judged_nothing_is_named() -> None:
    scores = benign()
    scores["b"][:] = np.nan
    with pytest.raises(FeaturewatchError, match="detector b: it judged none of the 400 benign generations"):
        fit_levels(policy("a.fire"), generations(scores), SETTINGS)


def test_rules_that_fire_on_silence_are_refused() -> None:
    with pytest.raises(FeaturewatchError, match=r"policy toy on 60 .*flagged even when no detector reaches fire"):
        fit_levels(policy("a.clear"), generations(benign(count=60)), Settings(target=0.05))


def test_a_policy_that_is_off_is_judged_all_the_same() -> None:
    off = dataclasses.replace(policy("a.fire"), mode=Mode.OFF)
    levels = {"a": Levels(0.0, None, None), "b": Levels(9.0, None, None)}
    scores = benign()
    judged = judge(with_levels(off, levels), generations(scores))
    assert judged.rules["R1"].tolist() == (scores["a"].astype(np.float32) >= 0).tolist()
    assert judged.peaks["b"] == pytest.approx(scores["b"], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": 0.0}, "target-fpr 0: it is a share"),
        ({"confidence": 1.0}, "confidence 1: it is a share"),
        ({"warn_share": 0.001}, "warn-fpr 0.001 with target-fpr 0.01: a warning comes no later"),
    ],
)
def test_settings_are_shares(changes: dict[str, float], message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        Settings(**changes)  # type: ignore[arg-type]
