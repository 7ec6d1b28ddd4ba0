"""An HTML document that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from training.evaluation.page.markup import Markup, tag, text
from training.evaluation.page.style import STYLE

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def document(title: str, body: Sequence[Markup]) -> str:
    """The whole of it, in the style of the evaluation's page; its policy forbids the browser to load anything."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        + tag("title", text(title))
        + f"<style>{STYLE}</style></head>"
        + tag("body", tag("main", *body))
        + "</html>\n"
    )
