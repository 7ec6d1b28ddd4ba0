"""Problems of policy files and advice on them, on stderr."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape

from monitor.cli.common import err_console
from monitor.cli.printable import printable_line
from monitor.policy import Problem


def print_problems(problems: Iterable[Problem]) -> None:
    """One line each; the file is refused."""
    _print_lines(problems, "[bold red]error[/bold red]")


def print_advice(remarks: Iterable[Problem]) -> None:
    """One line each; the file may be used as it is."""
    _print_lines(remarks, "[bold yellow]advice[/bold yellow]")


def _print_lines(problems: Iterable[Problem], head: str) -> None:
    for problem in problems:
        text = escape(printable_line(str(problem)))
        err_console.print(f"{head} {text}", soft_wrap=True, highlight=False)
