"""Conditions where some detector's state is not known: true, false, or None for unknown (Kleene's logic)."""

from __future__ import annotations

from collections.abc import Mapping

from monitor.policy.vocabulary import AND, NOT, DetectorState
from monitor.policy.when import Condition, State
from monitor.replay.known_states import UNKNOWN

Truth = bool | None


def truth_of(literal: State, states: Mapping[str, int]) -> Truth:
    """`states` are codes of `DetectorState` or UNKNOWN, by detector; warn is also true in fire."""
    state = states[literal.detector]
    if state == UNKNOWN:
        return None
    return state == DetectorState.CLEAR if literal.state is DetectorState.CLEAR else state >= literal.state


def truth(condition: Condition, states: Mapping[str, int]) -> Truth:
    """The condition's value, as far as what is known decides it."""
    stack: list[Truth] = []
    for item in condition.postfix:
        if isinstance(item, State):
            stack.append(truth_of(item, states))
        elif item == NOT:
            value = stack.pop()
            stack.append(None if value is None else not value)
        else:
            right, left = stack.pop(), stack.pop()
            # What decides an `and` is one that is false, an `or` one that is true.
            deciding = item != AND
            if deciding in (left, right):
                stack.append(deciding)
            else:
                stack.append(None if None in (left, right) else not deciding)
    return stack.pop()
