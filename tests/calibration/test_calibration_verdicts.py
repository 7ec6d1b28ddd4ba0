"""Verdicts on a stated calibration, and promises on what was kept back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from calibration_samples import POLICY, generations, policy

from monitor.calibration.baseline import OTHER_THRESHOLDS, Baseline, stated_in, stated_in_report
from monitor.calibration.generation import Generation
from monitor.calibration.holdout import split
from monitor.calibration.levels import with_levels
from monitor.calibration.promise import Standing
from monitor.calibration.report import Data, Report, Verdict
from monitor.calibration.run import Origin, calibrate, check_calibration, stated_target
from monitor.calibration.settings import Scope, Settings
from monitor.errors import FeaturewatchError

ORIGIN = Origin("test", {"dtype": "float32"}, Data("benign@sha256:00", "harmful@sha256:11", {}), (), "2026-11-21")
TARGET = 0.05


def sample(flagged: int, count: int, found: int = 50, harmful: int = 100) -> list[Generation]:
    """So many of `count` benign generations, and `found` of the harmful ones, fire detector b (at 5)."""

    def scores(hits: int, total: int) -> dict[str, np.ndarray]:
        b = np.linspace(0, 4, total)
        b[:hits] = np.linspace(6, 7, hits)
        return {"a": np.zeros(total), "b": b}

    return [*generations(scores(flagged, count)), *generations(scores(found, harmful), harmful=True)]


def checked(parts: list[Generation], mismatches: tuple[str, ...] = (), baseline: Baseline | None = None) -> Report:
    toy = policy("b.fire")
    target, note = stated_target(toy, stated_in(toy))
    assert not note
    settings = Settings(target=target, resamples=200)
    return check_calibration(toy, parts, settings, ORIGIN, mismatches, baseline or stated_in(toy))


def said(report: Report, verdict: Verdict) -> str:
    return "\n".join(finding.text for finding in report.findings if finding.verdict is verdict)


def test_exit_codes_are_those_of_the_contract() -> None:
    assert {verdict.name: verdict.value for verdict in Verdict} == {
        "PASS": 0,
        "STALE": 10,
        "DEGRADED": 11,
        "INCONCLUSIVE": 12,
    }


def test_what_is_stated_holds() -> None:
    report = checked(sample(12, 400))
    assert report.verdict is Verdict.PASS
    assert report.settings.target == TARGET
    assert "the policy: 12 of 400 benign flagged (3.00%), target 0.05, at most 4.8" in said(report, Verdict.PASS)
    assert (report.fitted, report.allowed, report.thresholds, report.held) == (None, None, None, None)


def test_another_serving_configuration_makes_it_stale() -> None:
    report = checked(sample(12, 400), ("dtype: fitted on bfloat16, serving float32",))
    assert report.verdict is Verdict.STALE
    assert said(report, Verdict.STALE) == "dtype: fitted on bfloat16, serving float32"


@pytest.mark.parametrize(
    ("flagged", "count", "verdict"),
    [
        (60, 400, Verdict.STALE),  # 15 %, surely above twice the target
        (0, 400, Verdict.STALE),  # at most 0.75 %, surely below half of the 3 % that fired at calibration
        (40, 400, Verdict.INCONCLUSIVE),  # 10 %, exactly twice the target: the bound is above
        (3, 58, Verdict.INCONCLUSIVE),  # below the floor of 59
        (2, 100, Verdict.PASS),
    ],
)
def test_the_rate_may_lie_between_half_and_twice(flagged: int, count: int, verdict: Verdict) -> None:
    assert checked(sample(flagged, count)).verdict is verdict


def test_too_few_says_how_many_more() -> None:
    report = checked(sample(3, 50))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "give 104 more benign generations to tell" in said(report, Verdict.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("found", "harmful", "verdict"),
    [(46, 100, Verdict.PASS), (30, 100, Verdict.DEGRADED), (8, 20, Verdict.INCONCLUSIVE)],
)
def test_recall_that_fell(found: int, harmful: int, verdict: Verdict) -> None:
    report = checked(sample(12, 400, found, harmful))
    assert report.verdict is verdict
    assert "detector b: recall" in said(report, verdict)


def test_stated_recall_without_harmful_texts_cannot_be_told() -> None:
    report = checked(sample(12, 400, 0, 0))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.sample.recall is None
    assert report.sample.detectors["b"].area is None


def test_an_area_that_fell_is_told_from_the_report_of_an_earlier_run() -> None:
    toy, before = policy("b.fire"), checked(sample(12, 400, 90))
    baseline = stated_in_report(before.json(), "before.json", toy)
    assert baseline.areas["b"] == pytest.approx(before.sample.detectors["b"].area.value)  # type: ignore[union-attr]
    assert baseline.policy_recall == before.sample.recall.share  # type: ignore[union-attr]
    # The policy file's own 0.5 gives way to what was measured last.
    assert baseline.recall["b"] == pytest.approx(0.9)
    report = checked(sample(12, 400, 55), baseline=baseline)
    assert report.verdict is Verdict.DEGRADED
    assert "detector b: AUROC" in said(report, Verdict.DEGRADED)
    assert "the policy: recall 55.0% of 100 harmful, 90.0% stated: 35.0% lost" in said(report, Verdict.DEGRADED)


def test_recall_at_other_thresholds_is_nothing_to_compare_with() -> None:
    toy, before = policy("b.fire"), calibrated(sample(12, 400, 90))
    assert before.fitted is not None
    assert before.fitted["b"].fire != 5
    baseline = stated_in_report(before.json(), "before.json", toy)
    assert baseline.policy_recall is None
    assert baseline.recall == {"b": 0.5}  # The file's own, which is of its thresholds.
    assert baseline.areas["b"] == pytest.approx(before.sample.detectors["b"].area.value)  # type: ignore[union-attr]
    report = checked(sample(12, 400, 55), baseline=baseline)
    assert "recall" not in said(report, Verdict.DEGRADED)
    assert report.notes == (OTHER_THRESHOLDS,)


@pytest.mark.parametrize("labels", ['"x"', "[1]", '{"labels": 1}'])
def test_a_baseline_with_values_of_other_kinds_is_refused(labels: str) -> None:
    report = json.loads(calibrated(sample(12, 400)).json())
    for changes in ({"data": json.loads(labels)}, {"fitted": json.loads(labels)}, {"settings": json.loads(labels)}):
        with pytest.raises(FeaturewatchError, match=r"baseline x\.json"):
            stated_in_report(json.dumps(report | changes), "x.json", policy("b.fire"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "policy": "toy"}', '{"version": 9, "policy": "toy"}'])
def test_another_file_is_no_baseline(text: str) -> None:
    with pytest.raises(FeaturewatchError, match=r"baseline x\.json"):
        stated_in_report(text, "x.json", policy())


def test_without_a_stated_calibration_there_is_nothing_to_check() -> None:
    with pytest.raises(FeaturewatchError, match="none of the detectors that its rules name states a calibration"):
        stated_target(policy("a.fire"), Baseline())


def test_a_rule_that_joins_detectors_is_checked_against_what_it_was_promised() -> None:
    """The file has a target for detectors only; that of the whole policy is in the report of its calibration."""
    joined = policy("a.fire and b.fire")
    target, note = stated_target(joined, stated_in(joined))
    assert target == TARGET
    assert "(R1) may have been promised another rate" in note
    waiting = policy("b.fire", POLICY.replace("when: WHEN", "when: WHEN, for: 2 tokens"))
    assert "(R1) may have been promised another rate" in stated_target(waiting, stated_in(waiting))[1]
    parts, settings = sample(12, 400), Settings(target=0.02, resamples=200)
    report = calibrate(joined, split(parts, 0, ()), settings, ORIGIN)
    assert report.fitted is not None
    written = with_levels(joined, report.fitted)
    assert stated_target(written, stated_in_report(report.json(), "x.json", written)) == (0.02, "")
    # What a check was held against is no promise.
    held = check_calibration(written, parts, settings, ORIGIN, (), stated_in(written))
    assert stated_in_report(held.json(), "x.json", written).target is None
    # Of other thresholds, or for detectors one by one, it says nothing of the policy.
    assert stated_in_report(report.json(), "x.json", joined).target is None
    by_detector = calibrate(joined, split(parts, 0, ()), replace(settings, scope=Scope.DETECTOR), ORIGIN)
    assert by_detector.fitted is not None
    written = with_levels(joined, by_detector.fitted)
    assert stated_in_report(by_detector.json(), "x.json", written).target is None


def calibrated(parts: list[Generation], share: float = 0.0, sources: tuple[str, ...] = ()) -> Report:
    settings = Settings(target=TARGET, resamples=200)
    return calibrate(policy("b.fire"), split(parts, share, sources), settings, ORIGIN)


def test_a_source_that_was_kept_back_and_fares_worse() -> None:
    rng = np.random.default_rng(0)

    def of(source: str, shift: float) -> list[Generation]:
        b = rng.normal(shift, 1, 300)
        return generations({"a": np.zeros(300), "b": b}, source=source)

    report = calibrated([*of("plain", 0), *of("like it", 0), *of("harder", 1)], sources=("like it", "harder"))
    assert {name: found.standing for name, found in report.promises.items()} == {
        "policy": Standing.BROKEN,
        "source harder": Standing.BROKEN,
        "source like it": Standing.OPEN,
    }
    assert report.held is not None
    assert report.held.false_alarms.n == 600
    assert report.sample.by_source.keys() == {"plain"}


def test_a_share_is_kept_back_by_name() -> None:
    parts = sample(30, 1000)
    once, again = split(parts, 0.25, ()), split(parts[::-1], 0.25, ())
    assert {one.name for one in once.held} == {one.name for one in again.held}
    assert len(once.fitted) + len(once.held) == len(parts)
    assert 0.2 < len(once.held) / len(parts) < 0.3
    assert split(parts, 0.0, ()).held == []
    assert any("Nothing was kept back" in note for note in calibrated(parts).notes)


@pytest.mark.parametrize(
    ("share", "sources", "message"),
    [
        (0.5, ("s",), "one way of keeping back is enough"),
        (0.0, ("t",), "--holdout-source t: the data have s"),
        (1.0, (), "--holdout-share 1: it is a share"),
        (-0.1, (), "--holdout-share -0.1"),
    ],
)
def test_ways_of_keeping_back(share: float, sources: tuple[str, ...], message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        split(sample(1, 10), share, sources)


def test_a_sample_without_benign_generations_is_refused() -> None:
    harmful = [one for one in sample(1, 10) if one.is_harmful]
    with pytest.raises(FeaturewatchError, match="a sample without benign generations"):
        calibrated(harmful)
    with pytest.raises(FeaturewatchError, match="a sample without benign generations"):
        checked(harmful)


def test_the_report_is_plain_json() -> None:
    found = json.loads(calibrated(sample(12, 400), share=0.3).json())
    assert found["policy"] == "toy"
    assert found["verdict"] is None
    assert found["settings"]["method"] == "guaranteed"
    assert found["promises"]["policy"]["standing"] in {"kept", "open", "broken"}
    assert json.loads(checked(sample(12, 400)).json())["verdict"] == "pass"
