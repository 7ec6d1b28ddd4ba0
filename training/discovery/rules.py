"""Chooses thresholds and a rule so that the whole policy is shown to keep its false-alarm rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.policy.binomial import most_hits
from monitor.policy.when import State, parse_condition
from training.discovery.config import DiscoverConfig
from training.discovery.statistics import threshold_for

Scores = Mapping[str, npt.NDArray[np.float32]]
Bools = npt.NDArray[np.bool_]
DETECTORS = ("dense", "sae_probe", "latents")


@dataclass(frozen=True)
class Thresholds:
    """Of one detector."""

    warn: float
    fire: float


@dataclass(frozen=True)
class Choice:
    """A rule with the thresholds it needs.

    Attributes:
        when: condition in the policy's language.
        thresholds: per detector.
        flagged_p: which val prompts it flags.
        recall: share of val positives that it flags.
        is_shown: whether the negatives were enough to show the target; else it holds in the sample only.
    """

    when: str
    thresholds: dict[str, Thresholds]
    flagged_p: Bools
    recall: float
    is_shown: bool


# Every state only rises over a prompt (`then: max`), so a condition without `not` holds at the end or never.
_State = Callable[[str, str], Bools]
_CANDIDATES: dict[str, Callable[[_State], Bools]] = {
    "dense.fire or (sae_probe.fire and latents.warn)": lambda at: (
        at("dense", "fire") | (at("sae_probe", "fire") & at("latents", "warn"))
    ),
    "dense.fire or (sae_probe.fire and dense.warn)": lambda at: (
        at("dense", "fire") | (at("sae_probe", "fire") & at("dense", "warn"))
    ),
    "(dense.fire and sae_probe.warn) or (sae_probe.fire and dense.warn)": lambda at: (
        (at("dense", "fire") & at("sae_probe", "warn")) | (at("sae_probe", "fire") & at("dense", "warn"))
    ),
    "dense.warn and sae_probe.warn and latents.warn": lambda at: (
        at("dense", "warn") & at("sae_probe", "warn") & at("latents", "warn")
    ),
    "dense.fire or sae_probe.fire": lambda at: at("dense", "fire") | at("sae_probe", "fire"),
    "dense.fire and sae_probe.warn": lambda at: at("dense", "fire") & at("sae_probe", "warn"),
    "dense.fire": lambda at: at("dense", "fire"),
    "sae_probe.fire": lambda at: at("sae_probe", "fire"),
}


def fitted_rules(scores: Scores, positive_p: Bools, config: DiscoverConfig) -> list[Choice]:
    """All candidates that keep `target_fpr`, the highest recall first.

    For each candidate the fire thresholds are tightened together until the exact bound on the rate of the whole rule
    is at most the target (as `policy calibrate` does, `monitor.calibration.fit`). Only where the negatives are too few
    for any rule, the rate in the sample is taken instead.
    """
    negatives = int((~positive_p).sum())
    budgets = {when: _shown_budget(when, negatives, config) for when in _CANDIDATES}
    is_shown = max(budgets.values()) >= 0
    if not is_shown:
        budgets = dict.fromkeys(_CANDIDATES, int(config.target_fpr * negatives))
    fitted = [
        _fitted(when, condition, scores, positive_p, budgets[when], config, is_shown=is_shown)
        for when, condition in _CANDIDATES.items()
        if budgets[when] >= 0
    ]
    # A rule of `warn` terms alone has no fire threshold that could be tightened.
    choices = [choice for choice in fitted if int(choice.flagged_p[~positive_p].sum()) <= budgets[choice.when]]
    if not choices:
        raise FeaturewatchError(
            f"target-fpr {config.target_fpr:g} on {negatives} val negatives",
            "no rule stays within it",
            "give more negatives or a higher --target-fpr",
        )
    return sorted(choices, key=lambda choice: -choice.recall)


def _shown_budget(when: str, negatives: int, config: DiscoverConfig) -> int:
    """Negatives that the rule may flag; each threshold beyond the first costs one (Tukey 1947). Below 0: too few."""
    thresholds = {item for item in parse_condition(when).postfix if isinstance(item, State)}
    return most_hits(negatives, config.target_fpr, config.confidence) - (len(thresholds) - 1)


def _fitted(  # noqa: PLR0917
    when: str,
    condition: Callable[[_State], Bools],
    scores: Scores,
    positive_p: Bools,
    budget: int,
    config: DiscoverConfig,
    *,
    is_shown: bool,
) -> Choice:
    negatives = int((~positive_p).sum())
    # A conjunction may let its parts fire more often than the whole.
    for hits in range(min(4 * budget, int(config.warn_fpr * negatives)), -1, -1):
        thresholds = {name: _thresholds(scores[name][~positive_p], hits, config.warn_fpr) for name in DETECTORS}

        def at(name: str, level: str, limits: Mapping[str, Thresholds] = thresholds) -> Bools:
            return np.asarray(scores[name] >= getattr(limits[name], level))

        flagged_p = condition(at)
        if int(flagged_p[~positive_p].sum()) <= budget or hits == 0:
            break
    return Choice(when, thresholds, flagged_p, float(flagged_p[positive_p].mean()), is_shown)


def _thresholds(negative_scores: npt.NDArray[np.float32], hits: int, warn_fpr: float) -> Thresholds:
    """Rounded as they will be written."""
    fire = round(threshold_for(negative_scores, hits), 4)
    warn = round(threshold_for(negative_scores, int(warn_fpr * len(negative_scores))), 4)
    return Thresholds(min(warn, fire), fire)
