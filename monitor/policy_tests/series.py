"""Series in compact notation, after promtool's: ``0x20 8x3 _ 0..5x10``.

    series = item { " " item }
    item   = value [ ".." value ] [ "x" count ]
    value  = number | "_" | ( "warn" | "fire" | "clear" ) [ ("+" | "-") number ]

``_`` is a token that is not judged. ``a..bxN`` are N tokens from a to b in equal steps. A threshold's name stands for
the detector's threshold, so that a test still means the same after a recalibration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.policy.schema.rules import refuse
from monitor.policy.yaml_fields import shorten

#: Tokens of one series. The longest contexts that are served are longer; a test needs no more to say what it means.
MAX_TOKENS = 100_000
_LARGEST = 1e30
_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"
_VALUE = rf"[-+]?{_NUMBER}|(?:warn|fire|clear)(?:[-+]{_NUMBER})?"
_ITEM = re.compile(rf"(_|{_VALUE})(?:\.\.({_VALUE}))?(?:x([0-9]{{1,9}}))?")
_WORD = re.compile(r"([a-z]+?)(?:x([0-9]{1,9}))?")
_REMEDY = "write for example 0x20 8x3 _ 0..5x10"


@dataclass(frozen=True)
class Level:
    """A score: a number, or a number added to the threshold of this name."""

    threshold: str
    offset: float

    def value(self, thresholds: Mapping[str, float]) -> float:
        return self.offset + thresholds[self.threshold] if self.threshold else self.offset


@dataclass(frozen=True)
class Item:
    """`count` tokens from `first` to `last`; None: not judged."""

    first: Level | None
    last: Level | None
    count: int


def parse_scores(text: str) -> list[Item]:
    """Reads a series of scores; refuses as `monitor.policy.schema.rules` do."""
    items = []
    for word in _words(text):
        match = _ITEM.fullmatch(word)
        if match is None or (match[1] == "_" and match[2]):
            refuse(
                f"{_told(word)}: a series is made of numbers, ranges a..bxN and _, each with xCOUNT behind it", _REMEDY
            )
        first = _level(match[1], word)
        last = _level(match[2], word) if match[2] else first
        count = _count(match[3], word)
        if match[2] and count < 2:
            remedy = f"write how many, e.g. {match[1]}..{match[2]}x10"
            refuse(f"{_told(word)}: a range has at least two tokens", remedy)
        items.append(Item(first, last, count))
    _limit(sum(item.count for item in items))
    return items


def scores_of(items: Sequence[Item], thresholds: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """float64 [p]; NaN where the token is not judged. `thresholds` are the detector's, by name."""
    parts = [
        np.full(item.count, math.nan)
        if item.first is None or item.last is None
        else np.linspace(item.first.value(thresholds), item.last.value(thresholds), item.count)
        for item in items
    ]
    return np.concatenate(parts)


def length_of(items: Sequence[Item]) -> int:
    """Tokens of the series."""
    return sum(item.count for item in items)


def parse_words(text: str, choices: Sequence[str]) -> list[str]:
    """A series of words such as ``promptx12 responsex8``, one per token; refuses others than `choices`."""
    found: list[str] = []
    for word in _words(text):
        match = _WORD.fullmatch(word)
        if match is None or match[1] not in choices:
            remedy = f"write for example {choices[0]}x12 {choices[-1]}x8"
            refuse(f"{_told(word)}: the series is made of {', '.join(choices)}, each with xCOUNT behind it", remedy)
        count = _count(match[2], word)
        _limit(len(found) + count)
        found += [match[1]] * count
    return found


def _told(word: str) -> str:
    """Which item of the series is meant."""
    return f"in {shorten(word, 40)}"


def _words(text: str) -> list[str]:
    words = text.split()
    if not words:
        refuse("a series has at least one token", _REMEDY)
    return words


def _level(text: str, word: str) -> Level | None:
    if text == "_":
        return None
    threshold = next((name for name in ("warn", "fire", "clear") if text.startswith(name)), "")
    offset = float(text.removeprefix(threshold) or 0)
    if abs(offset) > _LARGEST:
        refuse(f"{_told(word)}: scores lie between -{_LARGEST:g} and {_LARGEST:g}", "choose a smaller number")
    return Level(threshold, offset)


def _count(text: str | None, word: str) -> int:
    count = 1 if text is None else int(text)
    if count < 1:
        refuse(f"{_told(word)}: a count is at least 1", "remove the item or count its tokens")
    _limit(count)
    return count


def _limit(count: int) -> None:
    if count > MAX_TOKENS:
        refuse(f"a series has at most {MAX_TOKENS} tokens, this one has {count}", "write a shorter test")
