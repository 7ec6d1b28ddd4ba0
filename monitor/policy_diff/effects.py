"""What a change of one field can do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from monitor.policy import Policy
from monitor.policy.vocabulary import Mode
from monitor.policy_diff.conditions import direction, told
from monitor.policy_diff.meaning import Leaf


class Kind(Enum):
    """Which way a change goes: MORE or LESS can be judged, fire or be sent; WORDS: nothing of it changes."""

    MORE = "more"
    LESS = "less"
    DIFFERENT = "other"
    WORDS = "words"


Effect = tuple[Kind, str]

_DETECTOR = re.compile(r"detectors\[([^\]]+)\]\.(.+)")
_RULE = re.compile(r"rules\[([^\]]+)\]\.(.+)")
#: Fields of a detector by what a higher value does to its state.
_RAISES = {"threshold.fire": -1, "threshold.warn": -1, "threshold.clear": -1, "aggregate.minTokens": -1}
_RAISES |= {"aggregate.over": -1, "aggregate.drift": -1}
_MORE = "can fire on more generations"
_FEWER = "can fire on fewer generations"
_OTHER = "can fire on other generations"
_TOLD = {
    "metadata.name": "it is another policy: its alerts and counters begin anew",
    "record": "what the record keeps",
    "onUnseen": "what happens about tokens that nobody saw",
    "onDrop": "what happens when too much is dropped",
    "notify": "how alerts are gathered into notifications",
    "correlations": "what is told of several requests together",
    "fittedOn": "on which serving configurations it falls to shadow",
}


def effect_of(path: str, old: Leaf | None, new: Leaf | None, policies: tuple[Policy, Policy]) -> Effect:
    """None stands for a field that is not there."""
    if path == "mode":
        return _mode(str(old), str(new))
    if path.startswith("match."):
        return _match(path, old, new)
    if match := _RULE.fullmatch(path):
        return _rule(match[1], match[2], old, new)
    if match := _DETECTOR.fullmatch(path):
        return _detector(match[1], match[2], (old, new), policies)
    if path.startswith("metadata.") and path != "metadata.name":
        return Kind.WORDS, "for the reader"
    return Kind.DIFFERENT, next((text for name, text in _TOLD.items() if path.startswith(name)), "")


def rules_naming(detector: str, policies: Sequence[Policy]) -> dict[str, int]:
    """Rules of both versions that name a detector, with the direction in which its state moves them."""
    found: dict[str, int] = {}
    for policy in policies:
        for rule in policy.document.spec.rules:
            way = direction(rule.when, detector)
            if way:
                found[rule.id] = way if found.get(rule.id, way) == way else 2
    return found


def _mode(old: str, new: str) -> Effect:
    raised = Mode[new.upper()] > Mode[old.upper()]
    words = {
        "off": "nothing is judged",
        "shadow": "firings are recorded, not sent",
        "alert": "alerts are sent",
        "enforce": "alerts are sent, and it may intervene",
    }[new]
    return Kind.MORE if raised else Kind.LESS, words


def _match(path: str, old: Leaf | None, new: Leaf | None) -> Effect:
    what = "tokens" if path == "match.phases" else "requests"
    if isinstance(old, tuple) and isinstance(new, tuple):
        wider = set(new) >= set(old) or "*" in new
        narrower = set(new) <= set(old) or "*" in old
    else:
        wider, narrower = _above(new, old), _above(old, new)
    if wider and not narrower:
        return Kind.MORE, f"more {what} are judged"
    if narrower and not wider:
        return Kind.LESS, f"fewer {what} are judged"
    return Kind.DIFFERENT, f"other {what} are judged"


def _rule(rule: str, field: str, old: Leaf | None, new: Leaf | None) -> Effect:
    if field == "for":
        return (Kind.LESS, f"{rule} {_FEWER}") if _above(new, old) else (Kind.MORE, f"{rule} {_MORE}")
    if field.startswith("exceptions["):
        if field.endswith((".reason", ".owner")):
            return Kind.WORDS, "for the reader"
        if field.endswith(".expires") and old is not None and new is not None:
            later = str(new) > str(old)
            return (Kind.LESS if later else Kind.MORE), f"{rule} is held back {'longer' if later else 'shorter'}"
        return Kind.DIFFERENT, f"{rule} is held back on other requests"
    if field in ("deadlineMs", "onTimeout"):
        return Kind.DIFFERENT, "which verdicts count as late, and what then"
    return Kind.DIFFERENT, f"alerts of {rule} say or do something else"


def _detector(
    detector: str, field: str, values: tuple[Leaf | None, Leaf | None], policies: tuple[Policy, Policy]
) -> Effect:
    if field.startswith("calibration."):
        return Kind.WORDS, "what its threshold is said to promise"
    if field.endswith(".label") and "latents[" in field:
        return Kind.WORDS, "for the reader"
    named = rules_naming(detector, policies)
    if not named:
        return Kind.DIFFERENT, "no rule names the detector: its readings in alerts and records change"
    old, new = values
    way = 0
    if field in _RAISES and old is not None and new is not None:
        way = _RAISES[field] if _above(new, old) else -_RAISES[field]
    elif field == "aggregate.then":
        way = 1 if new is not None else -1
    signs = {way * sign if sign in (1, -1) else 0 for sign in named.values()}
    rules = told(list(named))
    if signs == {1}:
        return Kind.MORE, f"{rules} {_MORE}"
    if signs == {-1}:
        return Kind.LESS, f"{rules} {_FEWER}"
    return Kind.DIFFERENT, f"{rules} {_OTHER}"


def _above(one: Leaf | None, other: Leaf | None) -> bool:
    return isinstance(one, int | float) and isinstance(other, int | float) and one > other
