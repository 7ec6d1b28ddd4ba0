"""Commands that runbooks and the library's README print exist, with the options they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from monitor.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs" / "runbooks").glob("*.md")), ROOT / "policies" / "README.md"]
TEMPLATES = sorted((ROOT / "policies" / "templates").glob("*.yaml"))


def commands_of(text: str) -> list[str]:
    """Command lines of code blocks, of inline code and of comments, continued lines joined."""
    text = re.sub(r"\\\n#?\s*", "", text)
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(featurewatch [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines += [line.removeprefix("#") for line in text.splitlines() if line.startswith("#   featurewatch ")]
    return [line.strip() for line in lines if line.strip().startswith("featurewatch ")]


COMMANDS = sorted({(page.name, line) for page in [*PAGES, *TEMPLATES] for line in commands_of(page.read_text())})


def test_there_are_commands_on_every_page() -> None:
    assert {page.name for page in PAGES} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_it_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    while words and (commands := getattr(command, "commands", None)):
        name = words.pop(0)
        assert name in commands, f"{page}: there is no featurewatch {name}"
        command = commands[name]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, page
