"""Problems of policy files, on stderr."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape

from monitor.cli.common import err_console
from monitor.cli.printable import printable_line
from monitor.policy import Problem


def print_problems(problems: Iterable[Problem]) -> None:
    """One line each."""
    for problem in problems:
        text = escape(printable_line(str(problem)))
        err_console.print(f"[bold red]error[/bold red] {text}", soft_wrap=True, highlight=False)
