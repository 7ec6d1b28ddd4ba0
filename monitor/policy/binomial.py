"""How many false alarms a sample of benign generations lets one exclude: exact binomial bounds in plain arithmetic.

C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial"
(Biometrika 26, 1934). The sums take about sqrt(n) terms, so a sample of a billion is no work either.
"""

from __future__ import annotations

import math

_NEGLIGIBLE = 1e-18


def sample_floor(rate: float, confidence: float) -> int:
    """Fewest generations that, without any hit, show a rate of at most `rate` with `confidence`; both in (0, 1)."""
    floor = max(1, math.ceil(math.log1p(-confidence) / math.log1p(-rate)))
    # The quotient is rounded: 299 must not become 300.
    return floor - 1 if floor > 1 and (floor - 1) * math.log1p(-rate) <= math.log1p(-confidence) else floor


def probability_of_at_most(hits: int, n: int, rate: float) -> float:
    """P(X <= hits) for X ~ Binomial(n, rate), with 0 <= hits <= n and 0 < rate <= 1."""
    if hits >= n or rate >= 1.0:
        return float(hits >= n)
    # Both sums begin at their largest term, if they run away from the mean.
    if hits <= n * rate:
        return min(1.0, _sum_down(hits, n, rate))
    return max(0.0, 1.0 - _sum_down(n - hits - 1, n, 1.0 - rate))


def is_shown(hits: int, n: int, rate: float, confidence: float) -> bool:
    """True if `hits` of `n` show, with `confidence`, that the true rate is at most `rate`."""
    return probability_of_at_most(hits, n, rate) <= 1.0 - confidence


def most_hits(n: int, target: float, confidence: float) -> int:
    """The most hits of `n` with an upper bound of at most `target`; -1 where not even none is enough.

    The score that this many of `n` benign generations exceed is an order statistic, and the share of all benign
    traffic above it is Beta(hits + 1, n - hits) distributed whatever the scores' distribution (Wilks 1941). So a
    threshold there keeps the promise with the confidence of the bound, although it was chosen on the same data.
    """
    low, high = -1, n - 1
    while low < high:
        middle = (low + high + 1) // 2
        if is_shown(middle, n, target, confidence):
            low = middle
        else:
            high = middle - 1
    return low


def upper_bound(hits: int, n: int, confidence: float) -> float:
    """The smallest rate that `hits` of `n` show with `confidence` (one-sided Clopper-Pearson bound)."""
    if hits >= n:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        if is_shown(hits, n, middle, confidence):
            high = middle
        else:
            low = middle
    return high


def shown_rate(hits: int, n: int, target: float, confidence: float) -> float:
    """What may be stated: `target` if `hits` of `n` show it, else the rate that they do show, up to 3 digits."""
    if is_shown(hits, n, target, confidence):
        return target
    return rounded_up(upper_bound(hits, n, confidence))


def rounded_up(share: float) -> float:
    """To 3 significant digits, and below 1."""
    rounded = float(f"{share:.3g}")
    return min(rounded if rounded >= share else float(f"{share * 1.005:.3g}"), 0.999)


def _sum_down(hits: int, n: int, rate: float) -> float:
    """P(X = hits) + P(X = hits - 1) + ..., until the rest does not count."""
    logarithm = math.lgamma(n + 1) - math.lgamma(hits + 1) - math.lgamma(n - hits + 1)
    term = total = 1.0
    for k in range(hits, 0, -1):
        term *= k / (n - k + 1) * (1.0 - rate) / rate
        total += term
        if term < total * _NEGLIGIBLE:
            break
    return math.exp(logarithm + hits * math.log(rate) + (n - hits) * math.log1p(-rate) + math.log(total))
