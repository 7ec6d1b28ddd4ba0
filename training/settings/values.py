"""Values of settings: their types, checked with the place they come from."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from training.settings.keys import Key

Values = dict[str, Any]
"""Settings by name as they were given: single values, and lists where a setting is a list or is swept."""

_WHAT = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}


def checked(key: Key, value: Any, where: str) -> Any:
    """The value in the setting's type, a list where the setting is a list or several values are given.

    Raises:
        FeaturewatchError: it is of another type.
    """
    if isinstance(value, list | tuple):
        if not (key.is_list or key.is_swept):
            raise FeaturewatchError(f"{where}: {key.name} {value!r}", "it takes one value", "give one")
        found = [_one(key, item, where) for item in value]
        return found if key.is_list or len(found) != 1 else found[0]
    return [_one(key, value, where)] if key.is_list else _one(key, value, where)


def unknown(name: str, known: Collection[str], where: str) -> FeaturewatchError:
    """The error of a setting that there is not."""
    near = difflib.get_close_matches(name.replace("-", "_"), known, 1, 0.5)
    return FeaturewatchError(
        f"{where}: {name}",
        "there is no such setting",
        f"did you mean {near[0]}" if near else "`featurewatch train --print-config` prints all settings",
    )


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in the form of JSON and YAML."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _one(key: Key, value: Any, where: str) -> Any:
    good: Any = None
    if key.type is bool or isinstance(value, bool):
        good = value if key.type is bool and isinstance(value, bool) else None
    elif key.type is int:
        good = value if isinstance(value, int) else None
    elif key.type is float:
        good = _float(value)
    elif isinstance(value, str | Path):
        good = key.type(value)
    if good is None:
        raise FeaturewatchError(f"{where}: {key.name} {value!r}", f"it must be {_WHAT[key.type]}", _example(key))
    return good


def _float(value: Any) -> float | None:
    """YAML reads 1e-3 as a text, because it has no point."""
    if not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _example(key: Key) -> str:
    if key.default in (None, "", ()):
        return "correct it"
    default = key.default
    return f"give for example {str(default).lower() if isinstance(default, bool) else default}"
