"""Which states of a condition were seen to decide it.

General active clause coverage (Ammann and Offutt, Introduction to Software Testing, chapter 8): each state that a
condition names must be seen true and seen false at tokens where it decides, that is where the condition would have
the other value if this state alone had.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from monitor.policy.truth import evaluate, is_in, literals
from monitor.policy.vocabulary import DetectorState
from monitor.policy.when import Condition

#: Detectors of a condition up to which all their states are tried; with more, every state counts as able to decide.
_MOST_TRIED = 7
States = dict[str, DetectorState]


def value_of(condition: Condition, states: States, *, flipped: int = -1) -> bool:
    """The condition's value, with the value of its `flipped`-th state turned over."""
    return bool(evaluate(condition, lambda number, one: is_in(one, states[one.detector]) != (number == flipped)))


def decided(condition: Condition, seen: Iterable[States]) -> set[tuple[int, bool]]:
    """(number of the state in the condition, its value) for each that decided in one of the situations."""
    found = set()
    named = literals(condition)
    for states in seen:
        value = value_of(condition, states)
        for number, literal in enumerate(named):
            if value_of(condition, states, flipped=number) != value:
                found.add((number, is_in(literal, states[literal.detector])))
    return found


def can_decide(condition: Condition) -> set[tuple[int, bool]]:
    """What `decided` can find at all: in ``a.fire or a.warn`` the first never decides while it is true."""
    detectors: Sequence[str] = condition.detectors
    if len(detectors) > _MOST_TRIED:
        return {(number, value) for number in range(len(literals(condition))) for value in (True, False)}
    every = product(DetectorState, repeat=len(detectors))
    return decided(condition, (dict(zip(detectors, states, strict=True)) for states in every))
