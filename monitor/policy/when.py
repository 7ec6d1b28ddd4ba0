"""The conditions of rules: detector states joined by ``and``, ``or``, ``not`` and parentheses.

    condition = all { "or" all }
    all       = single { "and" single }
    single    = "not" single | "(" condition ")" | <detector> "." ( "clear" | "warn" | "fire" )

There are no loops, numbers or calls: every condition can be evaluated at every token.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monitor.policy.vocabulary import AND, NOT, OR, DetectorState

#: The kernel's evaluation stack is the bits of one 64-bit integer.
MAX_TERMS = 60
_MAX_DEPTH = 30
_STATES = {state.name.lower(): state for state in DetectorState}
_TOKEN = re.compile(r"\s*(?:([()])|([A-Za-z][A-Za-z0-9_-]*)(?:\.([A-Za-z0-9_-]*))?)")


class ConditionError(ValueError):
    """A condition that cannot be read; `position` counts characters from 1."""

    def __init__(self, position: int, value: str, rule: str, remedy: str) -> None:
        super().__init__(rule)
        self.position = position
        self.value = value
        self.rule = rule
        self.remedy = remedy


@dataclass(frozen=True)
class State:
    """``<detector>.<state>``; warn is true in warn and in fire."""

    detector: str
    state: DetectorState


@dataclass(frozen=True)
class Condition:
    """A condition in postfix form: states, and the operators AND, OR, NOT of `compiled`."""

    postfix: tuple[State | int, ...]

    @property
    def detectors(self) -> tuple[str, ...]:
        """Ids of the detectors it names, in order, each once."""
        return tuple(dict.fromkeys(item.detector for item in self.postfix if isinstance(item, State)))

    def holds(self, states: Mapping[str, DetectorState]) -> bool:
        """Its value where the detectors stand so; a detector that is not named there is clear."""
        stack: list[bool] = []
        for item in self.postfix:
            if isinstance(item, State):
                state = states.get(item.detector, DetectorState.CLEAR)
                stack.append(state == item.state if item.state is DetectorState.CLEAR else state >= item.state)
            elif item == NOT:
                stack.append(not stack.pop())
            else:
                right, left = stack.pop(), stack.pop()
                stack.append(left and right if item == AND else left or right)
        return stack[0]

    def program(self, index_of: dict[str, int]) -> tuple[int, ...]:
        """The program of `CompiledRule`, given the index of each detector."""
        return tuple(4 * index_of[i.detector] + i.state if isinstance(i, State) else i for i in self.postfix)


def parse_condition(text: str) -> Condition:
    """Reads a condition; raises ConditionError."""
    reader = _Reader(_words(text), len(text) + 1)
    postfix = reader.condition(0)
    reader.expect_end()
    if sum(isinstance(item, State) for item in postfix) > MAX_TERMS:
        raise ConditionError(1, "", f"a condition names at most {MAX_TERMS} states", "split the rule")
    return Condition(tuple(postfix))


@dataclass(frozen=True)
class _Word:
    """A parenthesis, an operator word, or ``detector.state`` (then `state` is a string, possibly empty)."""

    position: int
    text: str
    state: str | None

    def __str__(self) -> str:
        return self.text if self.state is None else f"{self.text}.{self.state}"


def _words(text: str) -> list[_Word]:
    words, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            position = at + len(text[at:]) - len(text[at:].lstrip())
            raise ConditionError(
                position + 1,
                text[position],
                "a condition is made of detector.state, and, or, not and parentheses",
                "write for example: a.fire and not b.warn",
            )
        group = 1 if match[1] else 2
        words.append(_Word(match.start(group) + 1, match[group], match[3]))
        at = match.end()
    return words


class _Reader:
    def __init__(self, words: Sequence[_Word], end: int) -> None:
        self._words = list(words)
        self._end = end
        self._at = 0

    def condition(self, depth: int) -> list[State | int]:
        return self._joined("or", OR, depth)

    def expect_end(self) -> None:
        if word := self._peek():
            raise ConditionError(word.position, str(word), "the condition has ended here", "join states with and or or")

    def _joined(self, operator: str, code: int, depth: int) -> list[State | int]:
        def operand() -> list[State | int]:
            return self._joined("and", AND, depth) if operator == "or" else self._single(depth)

        postfix = operand()
        while (word := self._peek()) and word.text == operator and word.state is None:
            self._at += 1
            postfix += [*operand(), code]
        return postfix

    def _single(self, depth: int) -> list[State | int]:
        word = self._peek()
        if word is None:
            raise ConditionError(self._end, "", "the condition ends too early", "add a state such as detector.fire")
        if depth > _MAX_DEPTH:
            rule = f"parentheses and not are nested at most {_MAX_DEPTH} deep"
            raise ConditionError(word.position, str(word), rule, "simplify the condition")
        self._at += 1
        if word.state is None and word.text == "not":
            return [*self._single(depth + 1), NOT]
        if word.text == "(":
            postfix = self.condition(depth + 1)
            closing = self._peek()
            if closing is None or closing.text != ")":
                position = closing.position if closing else self._end
                rule = f"the parenthesis opened at character {word.position} is not closed here"
                raise ConditionError(position, str(closing or ""), rule, "add )")
            self._at += 1
            return postfix
        return [_state(word)]

    def _peek(self) -> _Word | None:
        return self._words[self._at] if self._at < len(self._words) else None


def _state(word: _Word) -> State:
    if word.state in _STATES:
        return State(word.text, _STATES[word.state])
    if word.state is None:
        rule = "a detector's id, a dot and clear, warn or fire is expected here"
        remedy = f"write {word.text}.fire" if word.text not in ("and", "or", ")") else "add a state before it"
        raise ConditionError(word.position, word.text, rule, remedy)
    near = difflib.get_close_matches(word.state, _STATES, n=1)
    remedy = f"did you mean {word.text}.{near[0]}" if near else f"write {word.text}.fire"
    raise ConditionError(word.position, str(word), "a detector's states are clear, warn and fire", remedy)
