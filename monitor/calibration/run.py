"""A calibration, or the check of one, from generations to the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitor.calibration.baseline import Baseline
from monitor.calibration.check import Shows, check, policy_target
from monitor.calibration.fit import fit_levels
from monitor.calibration.generation import Generation
from monitor.calibration.holdout import Split
from monitor.calibration.judged import judge
from monitor.calibration.levels import stated_levels
from monitor.calibration.performance import Performance, performance
from monitor.calibration.promise import Promise, promise
from monitor.calibration.report import Data, Report
from monitor.calibration.settings import Method, Scope, Settings
from monitor.errors import FeaturewatchError
from monitor.policy import Policy
from monitor.policy.binomial import sample_floor
from monitor.policy.schema.rule import Rule
from monitor.policy.when import parse_condition


@dataclass(frozen=True)
class Origin:
    """Where the generations come from: see the fields of these names in `Report`."""

    engine: str
    serving: dict[str, str]
    data: Data
    notes: tuple[str, ...]
    date: str


def calibrate(policy: Policy, parts: Split, settings: Settings, origin: Origin) -> Report:
    """New thresholds, what they do to the generations they were chosen on, and to those that were kept back.

    Raises:
        TooFewSamplesError: see `fit_levels`.
        FeaturewatchError: no benign generations, or see `fit_levels`.
    """
    benign = [generation for generation in parts.fitted if not generation.is_harmful]
    _require_benign(benign)
    fit = fit_levels(policy, benign, settings)
    sample = performance(parts.fitted, judge(fit.policy, parts.fitted), fit.levels, settings)
    held = performance(parts.held, judge(fit.policy, parts.held), fit.levels, settings) if parts.held else None
    notes = list(origin.notes)
    if settings.method is Method.EMPIRICAL:
        notes.append(
            "Empirical: the rate in this sample meets the target; the true rate may be as high as the bound beside it."
        )
    if held is None:
        notes.append(
            "Nothing was kept back: the bound is for traffic like this sample, and says nothing of other sources."
        )
    return Report(
        policy=policy.name,
        revision=policy.revision,
        sha256=policy.sha256,
        engine=origin.engine,
        serving=origin.serving,
        data=origin.data,
        settings=settings,
        floor=fit.floor,
        thresholds=fit.thresholds,
        allowed=fit.allowed,
        stated=stated_levels(policy),
        fitted=fit.levels,
        sample=sample,
        held=held,
        how_held=parts.how,
        promises={} if held is None else _promises(held, settings),
        verdict=None,
        findings=(),
        notes=tuple(notes),
        date=origin.date,
    )


def check_calibration(  # noqa: PLR0917
    policy: Policy,
    generations: Sequence[Generation],
    settings: Settings,
    origin: Origin,
    mismatches: Sequence[str],
    baseline: Baseline,
) -> Report:
    """What the policy as it stands does to the generations, and the verdict on what its file states.

    Raises:
        FeaturewatchError: no benign generations.
    """
    _require_benign([generation for generation in generations if not generation.is_harmful])
    levels = stated_levels(policy)
    sample = performance(generations, judge(policy, generations), levels, settings)
    floor = sample_floor(settings.target, settings.confidence)
    shows = Shows(recall=origin.data.shows_recall, loss=origin.data.shows_loss)
    verdict, findings = check(policy, sample, settings.target, mismatches, baseline, floor, shows)
    return Report(
        policy=policy.name,
        revision=policy.revision,
        sha256=policy.sha256,
        engine=origin.engine,
        serving=origin.serving,
        data=origin.data,
        settings=settings,
        floor=floor,
        thresholds=None,
        allowed=None,
        stated=levels,
        fitted=None,
        sample=sample,
        held=None,
        how_held="",
        promises={},
        verdict=verdict,
        findings=findings,
        notes=(*origin.notes, *baseline.notes),
        date=origin.date,
    )


def stated_target(policy: Policy, baseline: Baseline) -> tuple[float, str]:
    """The target that a check takes when none is given, and what the reader must know of it.

    Raises:
        FeaturewatchError: nothing states one.
    """
    if baseline.target is not None:
        return baseline.target, ""
    target = policy_target(policy)
    if target is None:
        raise FeaturewatchError(
            f"policy {policy.name}",
            "none of the detectors that its rules name states a calibration, so there is nothing to check",
            "calibrate it first, or give --target-fpr",
        )
    other = [rule.id for rule in policy.document.spec.rules if not _fires_with_its_detector(rule)]
    if not other:
        return target, ""
    return target, (
        f"The target {target:g} is the strictest that the file states of a detector. Rules that join detectors or wait "
        f"with `for` ({', '.join(other)}) may have been promised another rate: give it as --target-fpr, or as "
        "--baseline the report of a calibration that these thresholds are from, with --target policy."
    )


def _fires_with_its_detector(rule: Rule) -> bool:
    """Whether it fires as often as the one detector that it names, so that both keep the same rate."""
    return rule.hold_tokens == 1 and len(set(parse_condition(rule.when).detectors)) == 1


def _promises(held: Performance, settings: Settings) -> dict[str, Promise]:
    found = {}
    if settings.scope is Scope.POLICY:
        found["policy"] = promise(held.false_alarms, settings.target)
    else:
        for name, detector in held.detectors.items():
            found[f"detector {name}"] = promise(detector.false_alarms, settings.target)
    return found | {f"source {name}": promise(rate, settings.target) for name, rate in held.by_source.items()}


def _require_benign(benign: Sequence[Generation]) -> None:
    if not benign:
        raise FeaturewatchError(
            "a sample without benign generations",
            "a rate of false alarms is measured on benign ones",
            "give --benign FILE, or --data FILE with rows of label 0",
        )
