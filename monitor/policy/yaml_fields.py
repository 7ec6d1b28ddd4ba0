"""Reads YAML into plain values with the line of every field, and refuses what a policy has no use for.

Scalars follow YAML 1.2's core rules (``off`` is a word, ``1e3`` a number). Anchors, aliases, tags, several documents,
duplicate keys, empty values, deep nesting, long names and too many values are refused, and only so many problems of a
file are told: a hostile file costs no more than its size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml
from yaml.composer import Composer
from yaml.resolver import BaseResolver

from monitor.policy.problem import Problem

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 24
#: Names, values, lists and blocks; 4,096 latents with all their fields are 37,000. PyYAML takes seconds for more.
MAX_VALUES = 50_000
MAX_NAME = 200
#: Problems of one file that are told one by one; of the others their number.
MOST_PROBLEMS = 100

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PART = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")
_SPECIAL = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **{word: float("nan") for word in (".nan", ".NaN", ".NAN")},
}
_EMPTY = frozenset({"", "~", "null", "Null", "NULL"})
_STANDARD = "tag:yaml.org,2002:"
#: What the composer calls nodes without a tag.
_PLAIN_TAGS = frozenset(_STANDARD + kind for kind in ("str", "seq", "map"))


@dataclass
class Fields:
    """A file's fields.

    Attributes:
        data: the plain value; None if the file could not be read at all.
        lines: line (from 1) of each field by path, e.g. ``spec.rules[0].when``; ``""`` is the document.
        problems: what was refused, the first `MOST_PROBLEMS`.
        more: how many were refused beyond these.
        refused: paths of all that was refused.
    """

    file: str
    data: Value = None
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    more: int = 0
    refused: set[str] = field(default_factory=set)

    @property
    def full(self) -> bool:
        """Whether further problems are only counted: finding words for them would be in vain."""
        return len(self.problems) >= MOST_PROBLEMS

    def at(self, path: str) -> Value:
        """The value of the field at this path; None where there is none."""
        value = self.data
        for name, index in _PART.findall(path):
            if index:
                value = value[int(index)] if isinstance(value, list) and int(index) < len(value) else None
            else:
                value = value.get(name) if isinstance(value, dict) else None
        return value

    def refuse(self, line: int, path: str, value: str, rule: str, remedy: str) -> None:
        self.refused.add(path)
        if self.full:
            self.more += 1
            return
        self.problems.append(
            Problem(self.file, line, shorten(path, 160), shorten(value), shorten(rule, 800), shorten(remedy, 400))
        )

    def told(self) -> list[Problem]:
        """The problems in order of lines, and behind them how many more there are."""
        problems = sorted(self.problems, key=lambda problem: problem.line)
        if self.more:
            rule = f"of a file the first {MOST_PROBLEMS} problems are told"
            value = f"and {self.more:,} more problem{'s' * (self.more > 1)}"
            problems.append(Problem(self.file, problems[-1].line, "", value, rule, "correct these and try again"))
        return problems


def line_of(lines: Mapping[str, int], path: str) -> int:
    """Line of the field, or of the nearest block around it."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 1)


def shorten(text: str, limit: int = 80) -> str:
    """One line of at most `limit` characters that a terminal can show."""
    part = text[: 8 * limit]  # room for blanks before it
    shown = "".join(character if character.isprintable() else " " for character in part).strip()
    return shown if len(shown) <= limit and len(part) == len(text) else shown[: limit - 1] + "…"


def read_fields(text: str, file: str) -> Fields:
    """Reads the text; never raises for what the text holds."""
    fields = Fields(file)
    if len(text) > MAX_CHARACTERS:
        rule = f"the file has at most {MAX_CHARACTERS:,} characters"
        fields.refuse(1, "", f"{MAX_CHARACTERS + 1:,} characters or more", rule, "split it")
        return fields
    try:
        node = _compose(text, fields)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        rule = f"the file must be YAML: {error.problem or error.context}"
        fields.refuse(mark.line + 1 if mark else 1, "", "", rule, "check indentation, quotes and brackets")
        return fields
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # ReaderError (control characters) and PyYAML's unchecked \U escapes.
        first_line = str(error).splitlines()[0]
        fields.refuse(1, "", "", f"the file must be YAML text: {first_line}", "remove control characters and escapes")
        return fields
    if node is not None and not fields.problems:
        fields.data = _value(node, "", fields)
    return fields


class _EventComposer(Composer, BaseResolver):
    """PyYAML's composer over events that were read before: the text is parsed once."""

    def __init__(self, events: list[yaml.Event]) -> None:
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._events = events[::-1]

    def check_event(self, *kinds: type[yaml.Event]) -> bool:
        return bool(self._events) and isinstance(self._events[-1], kinds)

    def peek_event(self) -> yaml.Event | None:
        return self._events[-1] if self._events else None

    def get_event(self) -> yaml.Event | None:
        return self._events.pop() if self._events else None


def _compose(text: str, fields: Fields) -> yaml.Node | None:
    """The node tree; problems are noted before anything is built from anchors or depth."""
    depth = documents = values = 0
    events: list[yaml.Event] = []
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        events.append(event)
        line = _line(event)
        values += isinstance(event, yaml.NodeEvent)
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag is not None:
            event.tag = _written(event.tag)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            fields.refuse(
                line, "", f"&{event.anchor}", "anchors and aliases are not used in policies", "write the value out"
            )
        elif depth > MAX_DEPTH:
            fields.refuse(line, "", "", f"blocks are nested at most {MAX_DEPTH} deep", "flatten the file")
        elif values > MAX_VALUES:
            fields.refuse(line, "", "", f"a file has at most {MAX_VALUES:,} names and values", "split it")
        elif documents > 1:
            fields.refuse(line, "", "---", "a file holds one policy", "put each policy into its own file")
        if fields.problems:
            return None
    if documents == 0:
        fields.refuse(1, "", "", "the file is empty", "begin with apiVersion: monitor/v1")
        return None
    return _EventComposer(events).get_single_node()


def _written(tag: str) -> str:
    """A tag much as the file has it; never one of `_PLAIN_TAGS`, nor the bare `!` that the composer passes over."""
    return f"!!{tag.removeprefix(_STANDARD)}" if tag.startswith(_STANDARD) else f"{tag} "


def _value(node: yaml.Node, path: str, fields: Fields) -> Value:
    line = _line(node)
    fields.lines.setdefault(path, line)
    if _is_tagged(node, path, fields):
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, f"{path}[{index}]", fields) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return dict(_entries(node, path, fields))
    return _scalar(node, line, path, fields) if isinstance(node, yaml.ScalarNode) else None


def _is_tagged(node: yaml.Node, path: str, fields: Fields) -> bool:
    if node.tag in _PLAIN_TAGS:
        return False
    fields.refuse(_line(node), path, node.tag, "tags are not used in policies", "remove the tag")
    return True


def _line(item: yaml.Node | yaml.Event) -> int:
    return item.start_mark.line + 1 if item.start_mark else 1


def _entries(node: yaml.MappingNode, path: str, fields: Fields) -> Iterator[tuple[str, Value]]:
    first_lines: dict[str, int] = {}
    for key, value in node.value:
        line = _line(key)
        if not isinstance(key, yaml.ScalarNode):
            fields.refuse(line, path, "", "a field's name must be a word", "remove the brackets")
            continue
        name = str(key.value)
        inner = f"{path}.{name}" if path else name
        if len(name) > MAX_NAME:
            # The paths of all fields below would be as long.
            rule = f"a field's name has at most {MAX_NAME} characters, this one has {len(name)}"
            fields.refuse(line, inner, "", rule, "remove the field")
            continue
        if name in first_lines:
            rule = f"the field was already given in line {first_lines[name]}"
            fields.refuse(line, inner, name, rule, "keep one of them")
            continue
        if _is_tagged(key, inner, fields):
            continue
        first_lines[name] = line
        fields.lines[inner] = line
        yield name, _value(value, inner, fields)


def _scalar(node: yaml.ScalarNode, line: int, path: str, fields: Fields) -> Value:
    text = str(node.value)
    if node.style is not None:
        return text
    if text in _EMPTY:
        fields.refuse(line, path, text, "the field has no value", "give it a value or remove it")
        return None
    if text in _SPECIAL:
        return _SPECIAL[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _REAL.fullmatch(text) else text
