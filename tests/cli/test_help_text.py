"""What `--help` says."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from monitor.cli.help_text import flow_help, paragraphs
from monitor.cli.main import app

COMMAND = typer.main.get_command(app)
POLICY: dict[str, Any] = COMMAND.commands["policy"].commands  # type: ignore[attr-defined]


def test_lines_of_a_docstring_flow_in_each_paragraph() -> None:
    assert paragraphs("One\ntwo.\n\nThree\n  four.") == "One two.\n\nThree four."
    inner, outer = typer.Typer(), typer.Typer()

    @inner.command()
    def first() -> None:
        """One.

        Two
        three.
        """

    inner.command(help="Its\nown.")(lambda: None)
    outer.add_typer(inner, name="inner")
    flow_help(outer)
    assert [command.help for command in inner.registered_commands] == ["One.\n\nTwo three.", "Its\nown."]


def test_a_narrow_terminal_breaks_no_line_where_the_source_does() -> None:
    shown = CliRunner().invoke(app, ["policy", "status", "--help"], env={"COLUMNS": "200"}).stdout
    assert "would have been sent in mode alert, that an exception held back (exc.), and rows" in shown


@pytest.mark.parametrize("name", sorted(set(POLICY) - {"schema"}))
def test_every_policy_command_names_its_exit_codes(name: str) -> None:
    assert "Exit code 0: " in POLICY[name].help
    assert " 2: " in POLICY[name].help


def test_every_option_of_policy_commands_says_what_it_is_for() -> None:
    silent = [
        f"{name} {parameter.name}"
        for name, command in POLICY.items()
        for parameter in command.params
        if not (parameter.help or "").strip()
    ]
    assert silent == []
