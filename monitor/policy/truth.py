"""The value of a condition: true, false, or None where too little is known (Kleene's logic)."""

from __future__ import annotations

from collections.abc import Callable

from monitor.policy.vocabulary import AND, NOT, DetectorState
from monitor.policy.when import Condition, State

Truth = bool | None


def is_in(literal: State, state: DetectorState) -> bool:
    """Whether a detector in `state` is in the state that a condition names; warn is also true in fire."""
    return state is DetectorState.CLEAR if literal.state is DetectorState.CLEAR else state >= literal.state


def literals(condition: Condition) -> list[State]:
    """The states that it names, in order; one that it names twice comes twice."""
    return [item for item in condition.postfix if isinstance(item, State)]


def evaluate(condition: Condition, value_of: Callable[[int, State], Truth]) -> Truth:
    """The condition's value; never None where no state's is.

    Args:
        condition: what is evaluated.
        value_of: the value of each state that it names, given its number among `literals`.
    """
    stack: list[Truth] = []
    number = 0
    for item in condition.postfix:
        if isinstance(item, State):
            stack.append(value_of(number, item))
            number += 1
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
