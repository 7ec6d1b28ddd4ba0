"""Problems of policy files and advice on them, on stderr."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.markup import escape

from monitor.cli.common import err_console
from monitor.cli.printable import printable_line
from monitor.policy import Problem

if TYPE_CHECKING:
    from monitor.v1.policies_pb2 import PolicyProblem


def print_problems(problems: Iterable[Problem], then: str = "") -> None:
    """One line each, and how many there are; `then` is what follows from them."""
    told = [*problems]
    _print_lines(told, "[bold red]error[/bold red]")
    err_console.print(escape(f"problems: {len(told)}{then}"), soft_wrap=True, highlight=False)


def told_problems(messages: Iterable[PolicyProblem]) -> list[Problem]:
    """As a sidecar tells them."""
    return [Problem(one.file, one.line, one.field, one.value, one.rule, one.remedy) for one in messages]


def print_advice(remarks: Iterable[Problem]) -> None:
    """One line each; the file may be used as it is."""
    _print_lines(remarks, "[bold yellow]advice[/bold yellow]")


def _print_lines(problems: Iterable[Problem], head: str) -> None:
    for problem in problems:
        text = escape(printable_line(str(problem)))
        err_console.print(f"{head} {text}", soft_wrap=True, highlight=False)
