"""Whether a calibration's figures show what it claims."""

from __future__ import annotations

from collections.abc import Iterator

from monitor.policy.binomial import is_shown, sample_floor, upper_bound
from monitor.policy.schema.detector import Calibration


def calibration_advice(calibration: Calibration) -> Iterator[tuple[str, str, str, str]]:
    """Field, value, rule and remedy of what the figures do not show; nothing if they do."""
    target, confidence, n, hits = calibration.target_fpr, calibration.confidence, calibration.n, calibration.hits
    if confidence is None:
        if hits > target * n:
            rule = f"{hits} of {n} fired, {_percent(hits / n)}: more than targetFpr {_percent(target)}"
            yield "hits", str(hits), rule, "raise the fire threshold, or state the rate that was measured"
        return
    floor = sample_floor(target, confidence)
    if n < floor:
        rule = f"to show {_percent(target)} with {_percent(confidence)} confidence takes {floor}, even without a hit"
        yield "n", str(n), rule, f"calibrate with {floor - n} generations more, or state a higher targetFpr"
    elif not is_shown(hits, n, target, confidence):
        bound = upper_bound(hits, n, confidence)
        rule = (
            f"{hits} of {n} show a rate of at most {_percent(bound)} with {_percent(confidence)} confidence, "
            f"not {_percent(target)}"
        )
        yield "targetFpr", f"{target:g}", rule, "raise the fire threshold, calibrate with more, or state that rate"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
