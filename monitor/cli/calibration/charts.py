"""The two charts of the report as inline SVG, in the style of the SAE evaluation's page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monitor.calibration.area import Histogram
from training.evaluation.page.charts import HEIGHT, WIDTH, coordinate, svg
from training.evaluation.page.markup import Markup, tag, text

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 26, 12, 38
_BASE = HEIGHT - _BOTTOM
_ENDS = (_LEFT, WIDTH - _RIGHT)


def roc_chart(
    title: str, points: Sequence[tuple[float, float]], *, benign: int, target: float, at: tuple[float, float]
) -> Markup:
    """False alarms on a logarithmic axis, because what matters happens below 1 %; `at` is where the threshold lies.

    Args:
        points: (false alarms, recall), rising.
        benign: generations; a rate below one of them cannot be told from 0, and is drawn at the left end.
    """
    lowest = min(1 / max(benign, 10), target) / 2
    decades = math.log10(1 / lowest)

    def across(share: float) -> float:
        return _ENDS[0] + (_ENDS[1] - _ENDS[0]) * math.log10(max(share, lowest) / lowest) / decades

    def up(share: float) -> float:
        return _BASE - (_BASE - _TOP) * share

    parts = _recall_axis()
    for power in range(math.ceil(math.log10(2 * lowest)), 1):
        x = coordinate(across(10.0**power))
        parts += [
            tag("line", x1=x, x2=x, y1=_TOP, y2=_BASE, class_="grid"),
            tag("text", text(f"{100 * 10.0**power:g} %"), x=x, y=_BASE + 15, class_="label mid"),
        ]
    # Where a rate lies that is too low to tell from none.
    parts.append(tag("text", text("0"), x=_ENDS[0], y=_BASE + 15, class_="label mid"))
    corners, recall = [], 0.0
    for share, found in points:
        # A step: recall rises where another harmful one is found, and false alarms between.
        corners += [(share, recall), (share, found)]
        recall = found
    line = " ".join(f"{coordinate(across(share))},{coordinate(up(found))}" for share, found in corners)
    x = coordinate(across(target))
    parts += [
        tag("line", x1=x, x2=x, y1=_TOP, y2=_BASE, class_="mark"),
        tag("text", text("target"), x=coordinate(across(target) + 4), y=_BASE - 6, class_="label"),
        tag("polyline", points=line, class_="line s1"),
        tag("circle", cx=coordinate(across(at[0])), cy=coordinate(up(at[1])), r=4.5, class_="dot s2"),
        _axis("benign that fire"),
    ]
    told = f"recall {at[1]:.1%} at {at[0]:.2%} false alarms"
    return svg(title, told, HEIGHT, parts)


def score_chart(title: str, found: Histogram, levels: Sequence[tuple[str, float]]) -> Markup:
    """Highest scores of benign and harmful generations, with thresholds."""
    edges, low, high = found.edges, found.edges[0], found.edges[-1]
    most = max([*found.benign, *(found.harmful or [])]) or 1.0

    def across(value: float) -> float:
        return _ENDS[0] + (_ENDS[1] - _ENDS[0]) * (value - low) / (high - low)

    parts = []
    for share in (0.0, 0.5, 1.0):
        y = coordinate(_BASE - (_BASE - _TOP) * share)
        parts += [
            tag("line", x1=_ENDS[0], x2=_ENDS[1], y1=y, y2=y, class_="grid"),
            tag("text", text(f"{most * share:.0%}"), x=_LEFT - 6, y=coordinate(float(y) + 4), class_="label end"),
        ]
    for shares, style in ((found.benign, "s1"), (found.harmful or [], "s2")):
        for left, right, share in zip(edges, edges[1:], shares, strict=False):
            if share:
                height = (_BASE - _TOP) * share / most
                parts.append(
                    tag(
                        "rect",
                        x=coordinate(across(left)),
                        y=coordinate(_BASE - height),
                        width=coordinate(max(1.0, across(right) - across(left) - 1)),
                        height=coordinate(height),
                        class_=style,
                        opacity=0.65,
                    )
                )
    for index, (name, value) in enumerate(levels):
        x = coordinate(across(value))
        parts += [
            tag("line", x1=x, x2=x, y1=_TOP, y2=_BASE, class_="level l1"),
            tag("text", text(name), x=coordinate(across(value) + 4), y=_TOP + 10 + 12 * index, class_="value"),
        ]
    for value in (low, (low + high) / 2, high):
        parts.append(tag("text", text(f"{value:.3g}"), x=coordinate(across(value)), y=_BASE + 15, class_="label mid"))
    parts.append(_axis("highest score of a generation"))
    return svg(title, "; ".join(f"{name} at {value:g}" for name, value in levels), HEIGHT, parts)


def _recall_axis() -> list[Markup]:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = coordinate(_BASE - (_BASE - _TOP) * share)
        parts += [
            tag("line", x1=_ENDS[0], x2=_ENDS[1], y1=y, y2=y, class_="grid"),
            tag("text", text(f"{share:.0%}"), x=_LEFT - 6, y=coordinate(float(y) + 4), class_="label end"),
        ]
    return parts


def _axis(name: str) -> Markup:
    return tag("text", text(name), x=coordinate(sum(_ENDS) / 2), y=HEIGHT - 4, class_="label mid")
