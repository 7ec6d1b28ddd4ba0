"""When the requests of a test begin: times from its start on, and series of them in the notation of scores.

    series = item { " " item }
    item   = time [ ".." time ] [ "x" count ]
    time   = [ days "d" ] [ hours "h" ] [ minutes "m" ] [ seconds "s" ]

``0s 10m`` are two requests, ``0s..4mx5`` five, a minute apart. A time is written as Prometheus writes durations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from monitor.policy.schema.rules import refuse
from monitor.policy.yaml_fields import shorten

_TIME = r"(?=[0-9])(?:[0-9]{1,6}d)?(?:[0-9]{1,6}h)?(?:[0-9]{1,6}m)?(?:[0-9]{1,6}s)?"
_ITEM = re.compile(rf"({_TIME})(?:\.\.({_TIME}))?(?:x([0-9]{{1,9}}))?")
_PART = re.compile(r"([0-9]+)([dhms])")
_NANOS = {"d": 86_400_000_000_000, "h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000}
_REMEDY = "write for example 10m, or 1h30m"


@dataclass(frozen=True)
class Moments:
    """`count` times from `first` to `last` in equal steps, in nanoseconds."""

    first: int
    last: int
    count: int


def parse_time(text: str) -> int:
    """Nanoseconds; refuses as `monitor.policy.schema.rules` do."""
    if not re.fullmatch(_TIME, text):
        refuse("a time is made of numbers with d, h, m and s, in this order", _REMEDY)
    return sum(int(number) * _NANOS[unit] for number, unit in _PART.findall(text))


def parse_times(text: str) -> list[Moments]:
    """The items of a series; refuses as `monitor.policy.schema.rules` do."""
    found = []
    for word in text.split():
        match = _ITEM.fullmatch(word)
        item = f"in {shorten(word, 40)}"
        if match is None:
            refuse(f"{item}: a series of times is made of times such as 1h30m and ranges a..bxN", f"{_REMEDY}..2hx4")
        count = 1 if match[3] is None else int(match[3])
        if match[2] and count < 2:
            refuse(f"{item}: a range has a count of at least 2", f"write for example {match[1]}..{match[2]}x4")
        if count < 1:
            refuse(f"{item}: a count is at least 1", "remove the item or say how many")
        first = parse_time(match[1])
        found.append(Moments(first, parse_time(match[2]) if match[2] else first, count))
    if not found:
        refuse("there is at least one time", _REMEDY)
    return found


def times_of(text: str) -> list[int]:
    """Nanoseconds of each request of a series."""
    return [
        item.first + (item.last - item.first) * step // max(item.count - 1, 1)
        for item in parse_times(text)
        for step in range(item.count)
    ]


def time_text(nanos: int) -> str:
    """As a test writes it, e.g. ``1h30m``; the rest of a second as its fraction."""
    text = ""
    for unit, size in _NANOS.items():
        number, nanos = divmod(nanos, size)
        if unit == "s" and nanos:
            return f"{text}{number + nanos / size:.9g}s"
        if number:
            text += f"{number}{unit}"
    return text or "0s"
