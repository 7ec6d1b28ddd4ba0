"""Which states of a condition were seen to decide it.

General active clause coverage (Ammann and Offutt, Introduction to Software Testing, chapter 8): each state that a
condition names must be seen true and seen false at tokens where it decides, that is where the condition would have
the other value if this state alone had.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from monitor.policy.vocabulary import AND, NOT, DetectorState
from monitor.policy.when import Condition, State

#: Detectors of a condition up to which all their states are tried; with more, every state counts as able to decide.
_MOST_TRIED = 7
States = dict[str, DetectorState]


def is_in(literal: State, states: States) -> bool:
    """Whether a detector is in the state; warn is also true in fire."""
    state = states[literal.detector]
    return state is DetectorState.CLEAR if literal.state is DetectorState.CLEAR else state >= literal.state


def value_of(condition: Condition, states: States, *, flipped: int = -1) -> bool:
    """The condition's value, with the value of its `flipped`-th state turned over."""
    stack: list[bool] = []
    number = 0
    for item in condition.postfix:
        if isinstance(item, State):
            stack.append(is_in(item, states) != (number == flipped))
            number += 1
        elif item == NOT:
            stack.append(not stack.pop())
        else:
            right, left = stack.pop(), stack.pop()
            stack.append((left and right) if item == AND else (left or right))
    return stack.pop()


def literals(condition: Condition) -> list[State]:
    """The states that it names, in order; one that it names twice comes twice."""
    return [item for item in condition.postfix if isinstance(item, State)]


def decided(condition: Condition, seen: Iterable[States]) -> set[tuple[int, bool]]:
    """(number of the state in the condition, its value) for each that decided in one of the situations."""
    found = set()
    named = literals(condition)
    for states in seen:
        value = value_of(condition, states)
        for number, literal in enumerate(named):
            if value_of(condition, states, flipped=number) != value:
                found.add((number, is_in(literal, states)))
    return found


def can_decide(condition: Condition) -> set[tuple[int, bool]]:
    """What `decided` can find at all: in ``a.fire or a.warn`` the first never decides while it is true."""
    detectors: Sequence[str] = condition.detectors
    if len(detectors) > _MOST_TRIED:
        return {(number, value) for number in range(len(literals(condition))) for value in (True, False)}
    every = product(DetectorState, repeat=len(detectors))
    return decided(condition, (dict(zip(detectors, states, strict=True)) for states in every))
