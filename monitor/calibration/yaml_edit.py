"""Changes single fields of a YAML text in place. Positions come from PyYAML's nodes; nothing is written anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import yaml

_INDENT = 2


class Entry(NamedTuple):
    """A key of a mapping with its value."""

    key: yaml.ScalarNode
    value: yaml.Node


def entry(node: yaml.Node | None, name: str) -> Entry | None:
    """The entry of that name; None where there is none."""
    return next((found for found in _entries(node) if found.key.value == name), None)


class Edits:
    """Changes to one text, which are applied together."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans: list[tuple[int, int, str]] = []

    def applied(self) -> str:
        """The text with all changes."""
        text = self._text
        for start, end, new in sorted(self._spans, key=lambda span: (span[0], span[1]), reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def update(self, node: yaml.Node, fields: Mapping[str, str], *, only_these: bool = False) -> None:
        """Sets scalar entries of a mapping; with `only_these` other entries go."""
        entries = _entries(node)
        for index, found in enumerate(entries):
            name = str(found.key.value)
            if name in fields:
                self._set(found.value, fields[name])
            elif only_these:
                self._remove(node, entries, index)
        kept = [found for found in entries if not only_these or found.key.value in fields]
        known = {found.key.value for found in kept}
        if new := [f"{name}: {value}" for name, value in fields.items() if name not in known]:
            self._add(node, kept, *new)

    def block(
        self,
        node: yaml.Node,
        name: str,
        fields: Mapping[str, str],
        *,
        only_these: bool,
        after: str = "",
        before: str = "",
    ) -> None:
        """Sets entries of the mapping `name` within a mapping; where there is none, it comes next to another entry."""
        found = entry(node, name)
        if found is not None:
            self.update(found.value, fields, only_these=only_these)
            return
        entries = _entries(node)
        names = [one.key.value for one in entries]
        at = names.index(after) if after else names.index(before) - 1
        beside = entry(node, after or before)
        flat = f"{name}: {{{', '.join(f'{key}: {value}' for key, value in fields.items())}}}"
        if _is_flow(node) or beside is None or _is_flow(beside.value):
            lines = [flat]
        else:
            lines = [f"{name}:", *(f"{' ' * _INDENT}{key}: {value}" for key, value in fields.items())]
        if at >= 0:
            self._add(node, entries[: at + 1], *lines)
        else:
            self._prepend(node, entries[0], lines)

    def _set(self, node: yaml.Node, new: str) -> None:
        if node.value == new or (_number(node.value) is not None and _number(node.value) == _number(new)):
            return
        start, end = _span(node)
        self._spans.append((start, self._end(node) if _is_block_scalar(node) else end, new))

    def _add(self, node: yaml.Node, entries: list[Entry], *lines: str) -> None:
        """Behind the last of `entries`."""
        if _is_flow(node):
            start = _span(node)[0] + 1 if not entries else self._end(entries[-1].value)
            self._spans.append((start, start, ("" if not entries else ", ") + ", ".join(lines)))
            return
        indent = " " * entries[0].key.start_mark.column
        at = self._line_end(self._end(entries[-1].value))
        self._spans.append((at, at, "".join(f"\n{indent}{line}" for line in lines)))

    def _prepend(self, node: yaml.Node, first: Entry, lines: list[str]) -> None:
        start = _span(first.key)[0]
        indent = " " * first.key.start_mark.column
        ending = ", " if _is_flow(node) else f"\n{indent}"
        self._spans.append((start, start, f"\n{indent}".join(lines) + ending))

    def _remove(self, node: yaml.Node, entries: list[Entry], index: int) -> None:
        start, end = _span(entries[index].key)[0], self._end(entries[index].value)
        if not _is_flow(node):
            start = self._text.rfind("\n", 0, start) + 1
            end = self._line_end(end) + 1
        elif index + 1 < len(entries):
            end = _span(entries[index + 1].key)[0]
        elif index:
            start = self._end(entries[index - 1].value)
        self._spans.append((start, end, ""))

    def _end(self, node: yaml.Node) -> int:
        """Behind the last character of a node; PyYAML's marks of blocks lie behind what follows them."""
        if _is_block_scalar(node):
            start, end = _span(node)
            return start + len(self._text[start:end].rstrip())
        if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            last = node.value[-1]
            return self._end(last[1] if isinstance(last, tuple) else last)
        return _span(node)[1]

    def _line_end(self, at: int) -> int:
        found = self._text.find("\n", at)
        return len(self._text) if found < 0 else found


def _entries(node: yaml.Node | None) -> list[Entry]:
    return [Entry(key, value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else []


def _is_flow(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and bool(node.flow_style)


def _is_block_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")


def _span(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.index, node.end_mark.index


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None
