"""Configuration fields that carry their own documentation.

A configuration is a frozen dataclass whose fields are made with `option`; the command line takes its defaults and help
texts from the same place, so that a setting is described once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any

from monitor.errors import FeaturewatchError

Rule = tuple[bool, str, str, str]
"""Whether a setting is good; if not: its name and value, the rule, the remedy."""


def option(default: Any, help_text: str) -> Any:
    """A dataclass field with a help text."""
    return field(default=default, metadata={"help": help_text})


def help_of(config: type, name: str) -> str:
    """The help text of field `name` of a configuration class."""
    return str(_field(config, name).metadata["help"])


def default_of(config: type, name: str) -> Any:
    """The default of field `name` of a configuration class."""
    value = _field(config, name).default
    if value is MISSING:
        raise KeyError(f"{config.__name__}.{name} has no default")
    return value


def require_all(rules: Sequence[Rule]) -> None:
    """Raises FeaturewatchError for the first rule that is broken."""
    for good, subject, rule, remedy in rules:
        if not good:
            raise FeaturewatchError(subject, rule, remedy)


def _field(config: type, name: str) -> Field[Any]:
    return next(item for item in fields(config) if item.name == name)
