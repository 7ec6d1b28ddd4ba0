"""The verdict on thresholds that a policy states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from monitor.calibration.area import Area
from monitor.calibration.baseline import Baseline
from monitor.calibration.bounds import Rate
from monitor.calibration.performance import Performance
from monitor.calibration.promise import missing_for
from monitor.calibration.report import Finding, Verdict
from monitor.policy import Policy
from monitor.policy.when import parse_condition

# The true rate may lie between half and twice the promised one.
_BAND = (0.5, 2.0)
_RECALL_LOSS = 0.05
_AREA_LOSS = 0.02
# Of two findings the earlier one is the verdict: what was fitted on something else cannot have degraded.
_ORDER = (Verdict.STALE, Verdict.DEGRADED, Verdict.INCONCLUSIVE, Verdict.PASS)


@dataclass(frozen=True)
class Stated:
    """A promised rate.

    Attributes:
        target: at most this share.
        share: that fired when it was calibrated; None where that is not stated or the bound was all.
    """

    target: float
    share: float | None


class Shows(NamedTuple):
    """See `Data.shows_recall` and `Data.shows_loss`."""

    recall: bool
    loss: bool


def stated_rates(policy: Policy) -> dict[str, Stated]:
    """What the detectors' calibration blocks promise, by id."""
    found = {}
    for detector in policy.document.spec.detectors:
        if (stated := detector.calibration) is not None:
            found[detector.id] = Stated(stated.target_fpr, stated.hits / stated.n)
    return found


def policy_target(policy: Policy) -> float | None:
    """The strictest promise among detectors that rules name, which the file states for the whole policy only through
    them; None where none states one."""
    named = {name for rule in policy.document.spec.rules for name in parse_condition(rule.when).detectors}
    return min((stated.target for name, stated in stated_rates(policy).items() if name in named), default=None)


def check(  # noqa: PLR0917
    policy: Policy,
    found: Performance,
    target: float,
    mismatches: Sequence[str],
    baseline: Baseline,
    floor: int,
    shows: Shows,
) -> tuple[Verdict, tuple[Finding, ...]]:
    """Compares what a policy does to a sample with what is stated of it.

    Args:
        policy: as its file states it.
        found: what it does to the sample.
        target: share of benign generations that the whole policy may flag.
        mismatches: how the serving configuration, SAEs or probes differ from `fittedOn`.
        baseline: stated recall and AUROC.
        floor: benign generations below which nothing can be told.
        shows: what can be told of recall and AUROC.
    """
    findings = [Finding(Verdict.STALE, line) for line in mismatches]
    findings.append(_rate("the policy", found.false_alarms, Stated(target, None), floor))
    for name, stated in stated_rates(policy).items():
        findings.append(_rate(f"detector {name}", found.detectors[name].false_alarms, stated, floor))
    if baseline.policy_recall is not None:
        findings.append(_recall("the policy", found.recall, baseline.policy_recall, shows))
    for name, share in baseline.recall.items():
        if name in found.detectors:
            findings.append(_recall(f"detector {name}", found.detectors[name].recall, share, shows))
    for name, value in baseline.areas.items():
        if name in found.detectors:
            findings.append(_area(f"detector {name}", found.detectors[name].area, value, shows))
    verdict = next(verdict for verdict in _ORDER if any(finding.verdict is verdict for finding in findings))
    return verdict, tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.verdict)))


def _rate(name: str, found: Rate, stated: Stated, floor: int) -> Finding:
    """Outside of the band only where the bounds say so; inside only where they can."""
    lowest, highest = _BAND
    told = f"{name}: {found.hits:,} of {found.n:,} benign flagged ({found.share:.2%}), target {stated.target:.4g}"
    usual = stated.target if stated.share is None else min(stated.target, stated.share)
    if found.share > highest * stated.target and found.lower > stated.target:
        return Finding(Verdict.STALE, f"{told}: more than {highest:g} times as many as promised")
    if stated.share is not None and found.upper < lowest * usual:
        return Finding(
            Verdict.STALE, f"{told}: fewer than half of the {usual:.2%} at calibration: recall is given away"
        )
    if found.n < floor or found.upper > highest * stated.target:
        more = missing_for(found, highest * stated.target)
        needed = max(floor - found.n, more or 0)
        how_many = f"{needed:,} more benign generations" if more is not None else "more benign generations"
        return Finding(Verdict.INCONCLUSIVE, f"{told}, at most {found.upper:.2%}: give {how_many} to tell")
    return Finding(Verdict.PASS, f"{told}, at most {found.upper:.2%}")


def _recall(name: str, found: Rate | None, stated: float, shows: Shows) -> Finding:
    if found is None:
        return Finding(Verdict.INCONCLUSIVE, f"{name}: recall {stated:.1%} is stated; give labelled harmful texts")
    told = f"{name}: recall {found.share:.1%} of {found.n:,} harmful, {stated:.1%} stated"
    return _loss(told, _Measure(found.share, found.high, stated, _RECALL_LOSS), ".1%", shows)


def _area(name: str, found: Area | None, stated: float, shows: Shows) -> Finding:
    if found is None:
        return Finding(Verdict.INCONCLUSIVE, f"{name}: AUROC {stated:.3f} is stated; give labelled harmful texts")
    told = f"{name}: AUROC {found.value:.3f}, {stated:.3f} stated"
    return _loss(told, _Measure(found.value, found.high, stated, _AREA_LOSS), ".3f", shows)


class _Measure(NamedTuple):
    """What was found, how high it may be at most, what is stated, and what may be lost of that."""

    value: float
    high: float
    stated: float
    loss: float


def _loss(told: str, measure: _Measure, form: str, shows: Shows) -> Finding:
    """What is rather too high and still too low has fallen for certain, else it says nothing."""
    is_low = measure.value < measure.stated - measure.loss
    if is_low and measure.high < measure.stated and shows.loss:
        return Finding(Verdict.DEGRADED, f"{told}: {measure.stated - measure.value:{form}} lost")
    if is_low and not shows.loss:
        rule = "some of the labelled ones are there for another policy's sake, and this one may find fewer of them"
        return Finding(Verdict.INCONCLUSIVE, f"{told}: {rule}; label without them to tell")
    if not shows.recall:
        rule = "the labelled ones are mostly those that were flagged before, which says little of others"
        return Finding(Verdict.INCONCLUSIVE, f"{told}: {rule}; give labelled harmful texts to tell")
    if is_low:
        possible = f"up to {measure.high:{form}} is possible"
        return Finding(Verdict.INCONCLUSIVE, f"{told}, {possible}: give more harmful texts to tell")
    return Finding(Verdict.PASS, told)
