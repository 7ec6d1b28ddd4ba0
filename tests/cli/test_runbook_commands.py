"""Commands that runbooks, docs and READMEs print exist, with the options they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from monitor.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "policies" / "README.md"]
SETTINGS = ROOT / "training" / "synthetic" / "ground_truth.py"
TEMPLATES = sorted((ROOT / "policies" / "templates").glob("*.yaml"))
# Groups whose commands the docs also name without `featurewatch` before them.
GROUPS = "policy|alerts|audit"
# Of vLLM, OpenSSL and other programs.
FOREIGN_FLAGS = {"--enforce-eager", "--no-enable-prefix-caching"}


def commands_of(text: str) -> list[str]:
    """Command lines of code blocks, of inline code and of comments, continued lines joined."""
    text = re.sub(r"\\\n#?\s*", "", text)
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines += re.findall(r"`(featurewatch [^`]+)`", prose)
    lines += [f"featurewatch {line}" for line in re.findall(rf"`((?:{GROUPS}) [a-z][^`]*)`", prose)]
    lines += [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#   featurewatch ")]
    return [line for line in lines if line.startswith("featurewatch ")]


def flags_of(text: str) -> set[str]:
    """Options that the prose names by themselves, such as `--strict`."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return set(re.findall(r"`(--[a-z][a-z0-9-]*)", prose))


def options_of(command: Any) -> set[str]:
    """All flags of a command and of those below it."""
    parameters = command.get_params(typer.Context(command))
    flags = {flag for one in parameters for flag in (*one.opts, *one.secondary_opts)}
    return flags.union(*map(options_of, getattr(command, "commands", {}).values()))


COMMANDS = sorted({(page.name, line) for page in [*DOCS, *TEMPLATES] for line in commands_of(page.read_text())})


def test_there_are_commands_on_every_page() -> None:
    assert {page.name for page in DOCS} <= {page for page, _ in COMMANDS}
    assert len(COMMANDS) > 100


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_it_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    while words and (commands := getattr(command, "commands", None)):
        name = words.pop(0)
        assert name in commands, f"{page}: there is no featurewatch {name}"
        command = commands[name]
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options_of(command), page


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_options_named_alone_exist(page: Path) -> None:
    programs = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "scripts").rglob("*.py"), ROOT / "tests" / "conftest.py"]
    known = options_of(typer.main.get_command(app)) | FOREIGN_FLAGS
    known |= {flag for file in programs for flag in re.findall(r'"(--[a-z0-9-]+)"', file.read_text())}
    # Options of benchmarks that are made of settings.
    settings = re.findall(r"^    (\w+): \w+ = option\(", SETTINGS.read_text(), re.MULTILINE)
    known |= {f"--{name.replace('_', '-')}" for name in settings}
    assert flags_of(page.read_text()) <= known
