"""How conditions of rules compare, and which way a detector's state moves them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from monitor.policy import DetectorState
from monitor.policy.truth import evaluate, is_in
from monitor.policy.vocabulary import NOT
from monitor.policy.when import Condition, State, parse_condition

#: Detectors up to which all their states are tried.
_MOST_TRIED = 7


def compare(old: str, new: str) -> str:
    """``same``, ``more`` where the new one holds whenever the old one does, ``less`` the other way round, ``other``."""
    first, second = parse_condition(old), parse_condition(new)
    detectors = tuple(dict.fromkeys((*first.detectors, *second.detectors)))
    if len(detectors) > _MOST_TRIED:
        return "same" if first == second else "other"
    more = less = False
    for states in product(DetectorState, repeat=len(detectors)):
        named = dict(zip(detectors, states, strict=True))
        was, now = _value(first, named), _value(second, named)
        more, less = more or (now and not was), less or (was and not now)
    if more and less:
        return "other"
    return "more" if more else "less" if less else "same"


def direction(when: str, detector: str) -> int:
    """1 where a higher state of the detector can only make the condition true, -1 where only false, 0 where it does
    not name it, 2 where both."""
    stack: list[set[int]] = []
    for item in parse_condition(when).postfix:
        if isinstance(item, State):
            sign = -1 if item.state is DetectorState.CLEAR else 1
            stack.append({sign} if item.detector == detector else set())
        elif item == NOT:
            stack.append({-sign for sign in stack.pop()})
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(left | right)
    signs = stack.pop()
    return 0 if not signs else 2 if len(signs) > 1 else next(iter(signs))


def _value(condition: Condition, states: dict[str, DetectorState]) -> bool:
    return bool(evaluate(condition, lambda _, one: is_in(one, states[one.detector])))


def told(names: Sequence[str]) -> str:
    """Names of rules in a sentence."""
    return " and ".join(names)
