"""Command line options from settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from training.settings.keys import Key, default_text

_SHORT = {"k": ("-k", "--k")}
_SWEPT = " Repeat it for several SAEs."


def own_parameters() -> list[inspect.Parameter]:
    """Of the command itself: the model, a file of settings, and what to do in place of a training."""
    return [
        _parameter("model", str | None, typer.Argument(None, help="Hugging Face folder or id of the model.")),
        _parameter(
            "config",
            Path | None,
            typer.Option(
                None, "--config", metavar="FILE", help="YAML file of settings; options given beside it come first."
            ),
        ),
        _parameter(
            "dry_run",
            bool,
            typer.Option(
                False, "--dry-run", help="Say what would be done, with memory, disk and time, and write nothing."
            ),
        ),
        _parameter(
            "print_config",
            bool,
            typer.Option(False, "--print-config", help="Print all settings as YAML, each with its help, and end."),
        ),
    ]


def parameters_of(keys: Mapping[str, Key]) -> list[inspect.Parameter]:
    """One parameter per setting; None or an empty list where it is not given."""
    return [_setting(key) for key in keys.values()]


def _setting(key: Key) -> inspect.Parameter:
    default = default_text(key)
    flags = _SHORT.get(key.name, (f"{key.flag}/--no-{key.flag[2:]}" if key.type is bool else key.flag,))
    option = typer.Option(
        None,
        *flags,
        help=key.help + (_SWEPT if key.is_swept else "") + (f" Default: {default}." if default else ""),
        show_default=False,
        rich_help_panel=key.group,
    )
    kind: Any = key.type
    # A list that is swept or not is one on the command line.
    return _parameter(key.name, list[kind] | None if key.is_list or key.is_swept else kind | None, option)


def _parameter(name: str, annotation: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)
