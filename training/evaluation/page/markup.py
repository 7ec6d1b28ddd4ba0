"""HTML and SVG from text that is not trusted."""

from __future__ import annotations

import html
import unicodedata
from typing import NewType

Markup = NewType("Markup", str)
"""Text that may stand in a page as it is."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def text(value: object) -> Markup:
    """Any value as text: escaped, and without characters that turn or hide what stands beside them."""
    shown = "".join(
        character if unicodedata.category(character) not in _HIDDEN else f"\\u{ord(character):04x}"
        for character in str(value)
    )
    return Markup(html.escape(shown, quote=True))


def tag(name: str, *children: Markup, **attributes: object) -> Markup:
    """An element. ``class_`` stands for the attribute class, ``_`` in names for ``-``."""
    given = "".join(
        f' {("class" if key == "class_" else key.replace("_", "-"))}="{text(value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{''.join(children)}</{name}>")


def join(*parts: Markup) -> Markup:
    return Markup("".join(parts))
