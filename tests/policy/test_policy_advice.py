"""Advice: what may be loaded and is seldom meant, each with its line, rule and remedy."""

from __future__ import annotations

import pytest
from policy_samples import GOOD

from monitor.policy import Problem, parse_policy
from monitor.policy.advice import advice

#: A policy that nothing is to be said about.
QUIET = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: quiet, revision: 1, status: stable, owner: oncall, runbook: quiet.md}
spec:
  mode: alert
  fittedOn: {model: tiny, sae: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}
  detectors:
    - id: d
      source: {saeProbe: {file: p.safetensors}}
      aggregate: {kind: ema, halfLife: 8}
      threshold: {warn: 1, fire: 3, clear: 2}
      calibration: {targetFpr: 0.01, confidence: 0.95, benign: b, n: 299, hits: 0}
  rules:
    - id: R
      when: d.fire
      severity: low
"""
TODAY = "2026-11-21"


def told(before: str = "", after: str = "", today: str = TODAY) -> list[Problem]:
    assert not before or QUIET.count(before) == 1, before
    return advice(parse_policy(QUIET.replace(before, after) if before else QUIET, "p.yaml"), today)


def test_a_careful_policy_gets_no_advice() -> None:
    assert told() == []


@pytest.mark.parametrize(
    ("before", "after", "field", "part"),
    [
        ("owner: oncall, ", "", "metadata.owner", "mode is alert, and nobody answers"),
        (", runbook: quiet.md", "", "metadata.runbook", "finds no instructions"),
        ("status: stable", "status: deprecated", "metadata.status", "a deprecated policy still alerts"),
        ("model: tiny, ", "", "spec.fittedOn", "without model nobody notices"),
        (
            "kind: ema, halfLife: 8",
            "kind: ema, halfLife: 8, skip: [template]",
            "spec.detectors[0].aggregate.skip",
            "first",
        ),
        (
            "kind: ema, halfLife: 8",
            "kind: ema, halfLife: 8, skip: []",
            "spec.detectors[0].aggregate.skip",
            "first token",
        ),
        ("clear: 2", "clear: 3", "spec.detectors[0].threshold.clear", "fire begins and ends at 3"),
        (", clear: 2", "", "spec.detectors[0].threshold", "fire begins and ends at 3"),
        ("when: d.fire", "when: d.warn", "spec.detectors[0].threshold.clear", "warn begins and ends at 1"),
        ("when: d.fire", "when: not d.clear", "spec.detectors[0].threshold.clear", "warn begins and ends at 1"),
        ("when: d.fire", "when: not d.fire", "spec.rules[0].when", "fires on every request"),
        ("n: 299", "n: 298", "spec.detectors[0].calibration.n", "takes 299, even without a hit"),
        ("hits: 0", "hits: 1", "spec.detectors[0].calibration.targetFpr", "1 of 299 show a rate of at most 1.577 %"),
        (
            "confidence: 0.95, benign: b, n: 299, hits: 0",
            "benign: b, n: 299, hits: 3",
            "spec.detectors[0].calibration.hits",
            "3 of 299 fired, 1.003 %",
        ),
    ],
)
def test_what_is_told(before: str, after: str, field: str, part: str) -> None:
    (found,) = told(before, after)
    assert found.field == field
    assert part in found.rule
    assert found.remedy
    assert found.file == "p.yaml"
    name = field.rpartition(".")[2].removesuffix("[0]")
    missing = {"owner": "metadata", "runbook": "metadata", "skip": "aggregate"}
    assert missing.get(name, name) in QUIET.splitlines()[found.line - 1]


def test_a_detector_without_rule_or_without_calibration() -> None:
    second = "    - {id: e, source: {denseProbe: {file: f}}, aggregate: {kind: max}, threshold: {fire: 1}}\n"
    (unused,) = told("  rules:\n", f"{second}  rules:\n")
    assert (unused.field, unused.value, unused.line) == ("spec.detectors[1].id", "e", 13)
    assert "no rule names this detector" in unused.rule
    text = QUIET.replace("  rules:\n", f"{second}  rules:\n").replace("when: d.fire", "when: d.fire or e.fire")
    (bare,) = advice(parse_policy(text), TODAY)
    assert (bare.field, bare.value) == ("spec.detectors[1].id", "e")
    assert "how often its thresholds raise false alarms" in bare.rule
    assert advice(parse_policy(text.replace("mode: alert", "mode: shadow")), TODAY) == []


def test_an_experiment_in_shadow_needs_nobody_on_call_but_a_test_does() -> None:
    nobody = QUIET.replace(", owner: oncall, runbook: quiet.md", "").replace("mode: alert", "mode: shadow")
    experiment = nobody.replace("status: stable", "status: experimental")
    assert advice(parse_policy(experiment), TODAY) == []
    fields = [one.field for one in advice(parse_policy(nobody.replace("status: stable", "status: test")), TODAY)]
    assert fields == ["metadata.owner", "metadata.runbook"]


def test_policies_without_saes_state_only_their_model() -> None:
    fitted = "fittedOn: {model: tiny, sae: sha256:" + "a" * 64 + "}"
    dense = QUIET.replace("saeProbe", "denseProbe")
    assert advice(parse_policy(dense.replace(fitted, "fittedOn: {model: tiny}")), TODAY) == []
    (found,) = advice(parse_policy(dense.replace(fitted, "fittedOn: {}")), TODAY)
    assert (found.field, found.remedy) == ("spec.fittedOn", "add model")
    (found,) = advice(parse_policy(QUIET.replace(f"  {fitted}\n", "")), TODAY)
    assert (found.field, found.line, found.remedy) == ("spec.fittedOn", 4, "add model and sae")


@pytest.mark.parametrize("aggregate", ["{kind: max}", "{kind: ema, halfLife: 8, then: max}"])
def test_what_never_clears_does_not_flap(aggregate: str) -> None:
    text = QUIET.replace("{kind: ema, halfLife: 8}", aggregate).replace(", clear: 2", "")
    assert advice(parse_policy(text), TODAY) == []


def test_a_clear_between_warn_and_fire_is_fine_where_only_fire_is_named() -> None:
    assert told("clear: 2", "clear: 2.9") == []


def test_advice_comes_in_order_of_lines() -> None:
    found = advice(parse_policy(GOOD.replace(", owner: oncall@example.org", "").replace("hits: 9", "hits: 90")), TODAY)
    assert [one.line for one in found] == sorted(one.line for one in found)
    assert len(found) > 4
