"""Finds the thresholds that meet a target on benign generations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from monitor.calibration.generation import Generation
from monitor.calibration.judged import Judged, judge
from monitor.calibration.levels import LevelPath, Levels, stated_levels, with_levels
from monitor.calibration.settings import Method, Scope, Settings
from monitor.errors import FeaturewatchError
from monitor.policy import DetectorState, Policy
from monitor.policy.binomial import most_hits, sample_floor
from monitor.policy.vocabulary import NOT
from monitor.policy.when import Condition, State, parse_condition

# Steps that are looked at where a rule may fire more rarely when thresholds fall.
_LOOKS = 64


@dataclass(frozen=True)
class Fit:
    """Thresholds that meet the target.

    Attributes:
        levels: per detector.
        policy: the policy with these.
        judged: what it says of the benign generations.
        allowed: benign generations that the target lets be flagged.
        thresholds: that were moved together, because the rules name them; 1 where each detector was set by itself.
        floor: benign generations that the target takes at least, with so many thresholds.
    """

    levels: dict[str, Levels]
    policy: Policy
    judged: Judged
    allowed: int
    thresholds: int
    floor: int


class TooFewSamplesError(FeaturewatchError):
    """No threshold can be justified with so few benign generations; `missing` more are needed."""

    def __init__(self, count: int, floor: int, thresholds: int, settings: Settings) -> None:
        self.count, self.floor, self.thresholds, self.settings = count, floor, thresholds, settings
        self.missing = floor - count
        moved = f" of rules that name {thresholds} thresholds" if thresholds > 1 else ""
        super().__init__(
            f"{count:,} benign generations",
            f'"at most {settings.target:.4g} with confidence {settings.confidence:g}"{moved} takes at least {floor:,}, '
            "even if none of them is flagged",
            f"give {self.missing:,} more, or a higher --target-fpr",
        )


def fit_levels(policy: Policy, benign: Sequence[Generation], settings: Settings) -> Fit:
    """The loosest thresholds that meet the target.

    Raises:
        TooFewSamplesError: below the sample floor.
        FeaturewatchError: a detector judged none of the generations, or no thresholds bring the rules to the target.
    """
    whole = settings.scope is Scope.POLICY
    thresholds = _moved(policy) if whole else 1
    count = len(benign)
    floor = floor_for(thresholds, settings.target, settings.confidence)
    if count < floor:
        raise TooFewSamplesError(count, floor, thresholds, settings)
    stated, judged = stated_levels(policy), judge(policy, benign)
    _require_judged(judged, count)
    by_itself, warn_hits = _allowed(count, 1, settings), _hits(settings.warn, count)
    paths = {name: LevelPath(judged.peaks[name], levels, by_itself, warn_hits) for name, levels in stated.items()}
    at_target = {name: path.at(max(warn_hits, by_itself)) for name, path in paths.items()}
    allowed = _allowed(count, thresholds, settings)
    named = _named_detectors(policy)

    def tried(step: int) -> Fit:
        levels = at_target | {name: paths[name].at(step) for name in named}
        return fit(levels)

    def fit(levels: dict[str, Levels]) -> Fit:
        changed = with_levels(policy, levels)
        return Fit(levels, changed, judge(changed, benign), allowed, thresholds, floor)

    if not whole:
        return fit(at_target)
    if (found := _loosest(tried, count // 2, allowed, monotone=_is_monotone(policy))) is None:
        strictest = int(tried(0).judged.flagged_g.sum())
        raise FeaturewatchError(
            f"policy {policy.name} on {count:,} benign generations",
            f"{strictest:,} are flagged even when no detector reaches fire or warn on any; {allowed:,} may be",
            "give the rules conditions that hold only when a detector does: see `not` and `clear` in them",
        )
    return found


def floor_for(thresholds: int, target: float, confidence: float) -> int:
    """The fewest benign generations that can justify so many thresholds; for one `sample_floor`."""
    low = high = sample_floor(target, confidence)
    while most_hits(high, target, confidence) < thresholds - 1:
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        if most_hits(middle, target, confidence) < thresholds - 1:
            low = middle + 1
        else:
            high = middle
    return low


def _allowed(count: int, thresholds: int, settings: Settings) -> int:
    """Benign generations that may be flagged.

    Each threshold lies at the score of a generation of its own. Regions that are cut out at so many sample points, one
    after the other, leave a share of all traffic outside that is distributed as if one threshold had been cut at all
    of them (Tukey 1947, statistically equivalent blocks): each threshold beyond the first costs one.
    """
    if settings.method is Method.EMPIRICAL:
        return _hits(settings.target, count)
    return most_hits(count, settings.target, settings.confidence) - (thresholds - 1)


def _hits(share: float, count: int) -> int:
    # Not 28 for 29 % of 100, which is 28.999… to a computer.
    return math.floor(share * count + 1e-9)


def _loosest(tried: Callable[[int], Fit], loosest: int, allowed: int, *, monotone: bool) -> Fit | None:
    """The fit at the last step, from strict to loose, up to which no more than `allowed` are flagged."""
    best: Fit | None = None
    if monotone:
        low, high = 0, loosest + 1
        while low < high:
            middle = (low + high) // 2
            fit = tried(middle)
            if int(fit.judged.flagged_g.sum()) <= allowed:
                best, low = fit, middle + 1
            else:
                high = middle
        return best
    for step in sorted({0, *np.geomspace(1, max(loosest, 1), _LOOKS).astype(int).tolist()}):
        fit = tried(step)
        if int(fit.judged.flagged_g.sum()) <= allowed:
            best = fit
        elif best is not None:
            break
    return best


def _require_judged(judged: Judged, count: int) -> None:
    for name, peaks_g in judged.peaks.items():
        if not np.isfinite(peaks_g).any():
            raise FeaturewatchError(
                f"detector {name}",
                f"it judged none of the {count:,} benign generations (phase, skipped tokens or minTokens)",
                "give texts of the phases that match.phases names, e.g. with responses, and long enough",
            )


def _named_detectors(policy: Policy) -> list[str]:
    return list(dict.fromkeys(name for condition in _conditions(policy) for name in condition.detectors))


def _moved(policy: Policy) -> int:
    """Thresholds that the rules' states depend on."""
    stated = stated_levels(policy)
    states = {item for condition in _conditions(policy) for item in condition.postfix if isinstance(item, State)}
    return len(
        {(item.detector, item.state is DetectorState.FIRE or stated[item.detector].warn is None) for item in states}
    )


def _is_monotone(policy: Policy) -> bool:
    """True where lower thresholds can only make rules fire more often."""
    items = [item for condition in _conditions(policy) for item in condition.postfix]
    return not any(item == NOT or (isinstance(item, State) and item.state is DetectorState.CLEAR) for item in items)


def _conditions(policy: Policy) -> list[Condition]:
    return [parse_condition(rule.when) for rule in policy.document.spec.rules]
