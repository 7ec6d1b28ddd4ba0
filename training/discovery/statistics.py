"""AUROC, thresholds at a false-alarm rate, and exact bounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from monitor.policy.binomial import upper_bound

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


def auroc(scores_pk: Floats, positive_p: Bools) -> npt.NDArray[np.float64]:
    """Area under the ROC curve per column, [k]; ties count half (Mann-Whitney)."""
    ranks_pk = rankdata(scores_pk, axis=0)
    positives = int(positive_p.sum())
    negatives = len(positive_p) - positives
    u_k = ranks_pk[positive_p].sum(0) - positives * (positives + 1) / 2
    return np.asarray(u_k / (positives * negatives), np.float64)


def area_text(area: float) -> str:
    """An AUROC for people; NaN stands for one that could not be measured."""
    return f"{area:.3f}" if np.isfinite(area) else "not measured"


@dataclass(frozen=True)
class FalseAlarms:
    """False alarms with the exact one-sided upper bound (Clopper-Pearson)."""

    n: int
    hits: int
    upper: float

    @property
    def rate(self) -> float:
        return self.hits / self.n if self.n else float("nan")


def false_alarms(flagged: Bools, confidence: float) -> FalseAlarms:
    """Counts flags among negatives."""
    n, hits = len(flagged), int(flagged.sum())
    return FalseAlarms(n, hits, upper_bound(hits, n, confidence))


def threshold_for(negative_scores: Floats, hits: int) -> float:
    """The lowest round-off-safe threshold that at most `hits` of the negatives reach.

    It lies halfway between the score that must stay below and the next one above.
    """
    ordered = np.sort(negative_scores[np.isfinite(negative_scores)].astype(np.float64))[::-1]
    if hits >= len(ordered):
        return float(ordered[-1]) if len(ordered) else 0.0
    below = float(ordered[hits])
    above = ordered[:hits][ordered[:hits] > below]
    if len(above):
        return 0.5 * (below + float(above[-1]))
    return below + max(1e-3, 0.01 * abs(below))
