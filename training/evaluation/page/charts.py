"""Small charts as inline SVG. Colours come from the page's style, so they follow its light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from training.evaluation.page.markup import Markup, join, tag, text

WIDTH: Final = 360
HEIGHT: Final = 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 20, 12, 38
_ROW = 30


@dataclass(frozen=True)
class Series:
    """Points of one line with their intervals; None where nothing was measured."""

    name: str
    values: Sequence[float | None]
    lows: Sequence[float | None]
    highs: Sequence[float | None]


def bars(title: str, description: str, names: Sequence[str], values: Sequence[float], shown: Sequence[str]) -> Markup:
    """Horizontal bars from 0, names above them and values behind them; a value that is not finite has no bar."""
    finite = [abs(value) for value in values if math.isfinite(value)]
    longest = max(finite, default=1.0) or 1.0
    parts = []
    for index, (name, value, label) in enumerate(zip(names, values, shown, strict=True)):
        top = 6 + index * _ROW
        width = (WIDTH - 80) * max(0.0, value) / longest if math.isfinite(value) else 0.0
        parts += [
            tag("text", text(name), x=0, y=top + 9, class_="label"),
            tag("rect", x=0, y=top + 14, width=WIDTH - 80, height=8, rx=4, class_="track"),
            tag("rect", x=0, y=top + 14, width=coordinate(width), height=8, rx=4, class_="s1"),
            tag("text", text(label), x=WIDTH, y=top + 22, class_="value end"),
        ]
    return svg(title, description, 12 + len(names) * _ROW, parts)


def histogram(
    title: str,
    description: str,
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    ticks: Sequence[tuple[float, str]],
    axis: str,
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """Columns over bins; `ticks` and `marks` (vertical lines) are positions on the axis with their text."""
    low, high, most = edges[0], edges[-1], max(counts, default=0) or 1
    right, base = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def across(value: float) -> float:
        return _LEFT + (right - _LEFT) * (value - low) / ((high - low) or 1.0)

    parts = _grid(most, base)
    for left, end, count in zip(edges, edges[1:], counts, strict=False):
        height = (base - _TOP) * count / most
        if count:
            width = max(1.0, across(end) - across(left) - 1)
            parts.append(
                tag(
                    "rect",
                    x=coordinate(across(left)),
                    y=coordinate(base - height),
                    width=coordinate(width),
                    height=coordinate(height),
                    class_="s1",
                )
            )
    for value, label in marks:
        if low <= value <= high:
            x = coordinate(across(value))
            parts += [
                tag("line", x1=x, x2=x, y1=_TOP, y2=base, class_="mark"),
                tag("text", text(label), x=coordinate(across(value) - 4), y=_TOP + 10, class_="label end"),
            ]
    for value, label in ticks:
        if low - 1e-9 <= value <= high + 1e-9:
            parts.append(tag("text", text(label), x=coordinate(across(value)), y=base + 15, class_="label mid"))
    parts.append(tag("text", text(axis), x=coordinate((_LEFT + right) / 2), y=HEIGHT - 4, class_="label mid"))
    return svg(title, description, HEIGHT, parts)


def lines(
    title: str,
    description: str,
    names: Sequence[str],
    series: Sequence[Series],
    *,
    levels: Sequence[tuple[str, float | None]],
    axis: str,
) -> Markup:
    """Lines over named positions with interval bars, and dashed levels; the vertical axis ends at 1."""
    seen = [value for line in series for values in (line.values, line.lows) for value in values if value is not None]
    seen += [level for _, level in levels if level is not None]
    floor = max(0.0, math.floor(10 * min([*seen, 0.5])) / 10)
    right, base = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def up(value: float) -> float:
        return base - (base - _TOP) * (value - floor) / (1 - floor)

    def across(index: int) -> float:
        return _LEFT + (right - _LEFT) * (index + 0.5) / len(names)

    parts = []
    for step in range(round(10 * floor), 11):
        y = coordinate(up(step / 10))
        parts.append(tag("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(
            tag("text", text(f"{step / 10:.1f}"), x=_LEFT - 6, y=coordinate(up(step / 10) + 4), class_="label end")
        )
    for index, (_, level) in enumerate(levels):
        if level is not None:
            y = coordinate(up(level))
            parts.append(tag("line", x1=_LEFT, x2=right, y1=y, y2=y, class_=f"level l{index + 1}"))
    for number, line in enumerate(series, 1):
        shift = (number - (len(series) + 1) / 2) * 6
        points = [(across(i) + shift, value) for i, value in enumerate(line.values) if value is not None]
        parts.append(
            tag(
                "polyline",
                points=" ".join(f"{coordinate(x)},{coordinate(up(value))}" for x, value in points),
                class_=f"line s{number}",
            )
        )
        for i, (low, high) in enumerate(zip(line.lows, line.highs, strict=True)):
            if low is not None and high is not None:
                x = coordinate(across(i) + shift)
                parts.append(
                    tag("line", x1=x, x2=x, y1=coordinate(up(low)), y2=coordinate(up(high)), class_=f"range s{number}")
                )
        parts += [
            tag("circle", cx=coordinate(x), cy=coordinate(up(value)), r=3.5, class_=f"dot s{number}")
            for x, value in points
        ]
    parts += [
        tag("text", text(name), x=coordinate(across(index)), y=base + 15, class_="label mid")
        for index, name in enumerate(names)
    ]
    parts.append(tag("text", text(axis), x=coordinate((_LEFT + right) / 2), y=HEIGHT - 4, class_="label mid"))
    return svg(title, description, HEIGHT, parts)


def scatter(title: str, description: str, points: Sequence[tuple[float, float, str]], axis: str) -> Markup:
    """Numbered dots; the vertical axis is a share that ends at 1."""
    right, base = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    farthest = _round_above(1.05 * max((x for x, _, _ in points), default=1.0))
    floor = min(0.0, *(math.floor(10 * y) / 10 for _, y, _ in points)) if points else 0.0

    def up(value: float) -> float:
        return base - (base - _TOP) * (value - floor) / (1 - floor)

    parts = []
    for share in (floor, (1 + floor) / 2, 1.0):
        y = coordinate(up(share))
        parts.append(tag("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", text(f"{share:.2g}"), x=_LEFT - 6, y=coordinate(up(share) + 4), class_="label end"))
    for part in (0.0, 0.5, 1.0):
        x = coordinate(_LEFT + (right - _LEFT) * part)
        parts.append(tag("text", text(f"{farthest * part:.3g}"), x=x, y=base + 15, class_="label mid"))
    for value, share, label in points:
        x, height = coordinate(_LEFT + (right - _LEFT) * value / farthest), up(share)
        parts.append(tag("circle", cx=x, cy=coordinate(height), r=9, class_="dot s1"))
        parts.append(tag("text", text(label), x=x, y=coordinate(height + 4), class_="on mid"))
    parts.append(tag("text", text(axis), x=coordinate((_LEFT + right) / 2), y=HEIGHT - 4, class_="label mid"))
    return svg(title, description, HEIGHT, parts)


def _round_above(value: float) -> float:
    """The next of 1, 2, 4, 6, 8 times a power of ten, so that its half is round too."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value)


def _grid(most: float, base: float) -> list[Markup]:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = coordinate(base - (base - _TOP) * share)
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(
            tag("text", text(f"{most * share:,.0f}"), x=_LEFT - 6, y=coordinate(float(y) + 4), class_="label end")
        )
    return parts


def svg(title: str, description: str, height: float, parts: Sequence[Markup]) -> Markup:
    """A chart of width `WIDTH`, with words for those who do not see it."""
    return tag(
        "svg",
        tag("title", text(title)),
        tag("desc", text(description)),
        join(*parts),
        viewBox=f"0 0 {WIDTH} {coordinate(height)}",
        role="img",
        aria_label=f"{title}: {description}",
    )


def coordinate(value: float) -> str:
    """Of one digit: the page is as sharp, and half as long."""
    return f"{value:.1f}".removesuffix(".0")
