"""How well a score tells harmful from benign: area under the ROC curve with a bootstrap interval, and the curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_SEED = 0
_CURVE_POINTS = 240


@dataclass(frozen=True)
class Area:
    """Area under the ROC curve (Mann-Whitney: ties count half) with a percentile interval of a bootstrap that draws
    benign and harmful generations apart. The same data give the same interval."""

    value: float
    low: float
    high: float


def area(benign_b: Floats, harmful_h: Floats, confidence: float, resamples: int) -> Area | None:
    """Of scores of benign [b] and harmful [h] generations; None where one of them is empty."""
    if not benign_b.size or not harmful_h.size:
        return None
    # Only places among the different values count, so a resample is a pair of counts over them.
    values_v, places = np.unique(np.concatenate([benign_b, harmful_h]), return_inverse=True)
    benign_v = np.bincount(places[: benign_b.size], minlength=values_v.size)
    harmful_v = np.bincount(places[benign_b.size :], minlength=values_v.size)
    rng = np.random.default_rng(_SEED)
    drawn = np.array(
        [
            _area(
                rng.multinomial(benign_b.size, benign_v / benign_b.size),
                rng.multinomial(harmful_h.size, harmful_v / harmful_h.size),
            )
            for _ in range(resamples)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Area(_area(benign_v, harmful_v), float(low), float(high))


def _area(benign_v: npt.NDArray[np.int64], harmful_v: npt.NDArray[np.int64]) -> float:
    """From how often each value, in rising order, was scored."""
    below_v = np.cumsum(benign_v) - benign_v
    pairs = float((harmful_v * (below_v + 0.5 * benign_v)).sum())
    return pairs / float(benign_v.sum() * harmful_v.sum())


def roc(benign_b: Floats, harmful_h: Floats) -> list[tuple[float, float]]:
    """(share of benign, share of harmful) at or above a falling threshold, from (0, 0) to (1, 1); at most a few hundred
    points, dense where few benign ones are."""
    thresholds = np.unique(np.concatenate([benign_b, harmful_h]))[::-1]
    benign, harmful = np.sort(benign_b), np.sort(harmful_h)
    x = 1 - np.searchsorted(benign, thresholds, "left") / benign.size
    y = 1 - np.searchsorted(harmful, thresholds, "left") / harmful.size
    points = list(dict.fromkeys(zip(x.tolist(), y.tolist(), strict=True)))
    if len(points) > _CURVE_POINTS:
        chosen = np.unique(np.geomspace(1, len(points), _CURVE_POINTS).astype(int)) - 1
        points = [points[index] for index in chosen]
    return [(0.0, 0.0), *points]


@dataclass(frozen=True)
class Histogram:
    """Share of benign and of harmful generations per bin; those that were not judged are left out.

    Attributes:
        edges: one more than there are bins.
        harmful: None without harmful generations.
    """

    edges: list[float]
    benign: list[float]
    harmful: list[float] | None


def histogram(benign_b: Floats, harmful_h: Floats, levels: list[float], bins: int = 40) -> Histogram:
    """From the lowest to the highest finite score; `levels` lie within too."""
    finite = np.concatenate([benign_b[np.isfinite(benign_b)], harmful_h[np.isfinite(harmful_h)], levels])
    low, high = float(finite.min()), float(finite.max())
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    return Histogram(
        edges.tolist(),
        (np.histogram(benign_b[np.isfinite(benign_b)], edges)[0] / benign_b.size).tolist(),
        (np.histogram(harmful_h[np.isfinite(harmful_h)], edges)[0] / harmful_h.size).tolist()
        if harmful_h.size
        else None,
    )
