"""Help texts as paragraphs: a line of a docstring ends where the source's width ends, not where a terminal's does."""

from __future__ import annotations

import inspect

import typer


def flow_help(app: typer.Typer) -> None:
    """Gives every command of an app, and of those below it, its docstring with one line a paragraph.

    Typer joins the lines of the first paragraph only.
    """
    for command in app.registered_commands:
        if command.help is None and command.callback is not None:
            command.help = paragraphs(inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flow_help(group.typer_instance)


def paragraphs(text: str) -> str:
    """Lines of a paragraph joined."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
