"""Text from elsewhere as a terminal may show it: ids that clients choose, tokens, names, labels."""

from __future__ import annotations

import unicodedata

_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Control characters (C0 and C1), line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Zl", "Zp"})


def printable(text: str) -> str:
    """Text that cannot steer the terminal: control and direction characters become visible, line ends get a mark."""
    return "".join(_shown(character) for character in text)


def printable_line(text: str) -> str:
    """`printable` for what must stay on one line: ids, names, labels."""
    return printable(text).replace("\n", "")


def printable_lines(text: str) -> str:
    """`printable` for our own text that quotes others': its line ends stay as they are."""
    return "\n".join(map(printable, text.split("\n")))


def _shown(character: str) -> str:
    if character == "\n":
        return "⏎\n"
    if character in _DIRECTION or unicodedata.category(character) in _UNPRINTABLE:
        return f"\\u{ord(character):04x}"
    return character
