"""Settings in a YAML file: read with the line of every mistake, written with every setting's help."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from monitor.errors import FeaturewatchError
from training.settings.keys import Key, all_keys, default_text
from training.settings.values import Values, checked, plain, unknown

MODEL, SAES = "model", "saes"
_OF_ONE_SAE = "SAE"


@dataclass(frozen=True)
class FileSettings:
    """What a file holds.

    Attributes:
        model: as written; empty if it is not.
        values: common settings.
        entries: of `saes`, each with the settings that are its own.
        places: where each entry is, for messages.
    """

    model: str
    values: Values
    entries: tuple[Values, ...]
    places: tuple[str, ...]


def read_settings(path: Path) -> FileSettings:
    """Raises FeaturewatchError: no such file, no YAML, an unknown or doubled setting, a value of the wrong type."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise FeaturewatchError(f"settings {path} ({reason})", "it must be a YAML file", "correct it") from error
    model, values, entries, places = "", {}, [], []
    for name, node, where in _items(root, str(path)):
        if name == MODEL:
            model = _text(node, where)
        elif name == SAES:
            if not isinstance(node, yaml.SequenceNode) or not node.value:
                raise FeaturewatchError(f"{where}: saes", "it is a list of SAEs", "write one `- ` entry per SAE")
            for entry in node.value:
                place = f"{path}:{entry.start_mark.line + 1}"
                own = {key: _own(key, one, at) for key, one, at in _items(entry, str(path))}
                entries.append({key: value for key, value in own.items() if value is not None})
                places.append(place)
        elif (value := _value(name, node, where)) is not None:
            values[name] = value
    return FileSettings(model, values, tuple(entries), tuple(places))


def settings_text(
    model: str, values: Mapping[str, Any], entries: Sequence[Mapping[str, Any]] = (), *, heading: str = ""
) -> str:
    """A file that `read_settings` reads back, with all settings; those of architectures that are not in use are
    comments."""
    given = plain(values)
    common = given.get("architecture", "batchtopk")
    used = {str(name) for entry in entries or ({},) for name in _listed(entry.get("architecture", common))}
    lines = [*_comment(heading), *_comment("Hugging Face folder or id of the model."), _line(MODEL, model)]
    group = ""
    for key in all_keys().values():
        if key.group != group:
            group = key.group
            lines += ["", f"# ---- {group}"]
        lines += ["", *_comment(_help(key))]
        value = given.get(key.name, _shown(key))
        is_of_others = bool(key.architectures) and not used & set(key.architectures) and key.name not in given
        lines.append(("# " if is_of_others else "") + _line(key.name, value))
    if entries:
        lines += ["", "# ---- The SAEs, one after the other, each with what is its own.", ""]
        lines.append(yaml.safe_dump({SAES: [plain(entry) for entry in entries]}, sort_keys=False).rstrip())
    return "\n".join(lines) + "\n"


def _items(node: Any, path: str) -> list[tuple[str, Any, str]]:
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        place = f"{path}:{node.start_mark.line + 1}"
        raise FeaturewatchError(place, "settings are written `name: value`", "write for example `tokens: 4000000`")
    found: dict[str, tuple[Any, str]] = {}
    for name_node, value in node.value:
        where = f"{path}:{name_node.start_mark.line + 1}"
        name = str(name_node.value)
        if name in found:
            raise FeaturewatchError(f"{where}: {name}", f"it is given at {found[name][1]} already", "keep one of both")
        found[name] = (value, where)
    return [(name, value, where) for name, (value, where) in found.items()]


def _value(name: str, node: Any, where: str) -> Any:
    keys = all_keys()
    if name not in keys:
        raise unknown(name, [*keys, MODEL, SAES], where)
    value = _plain_value(node)
    return None if value is None else checked(keys[name], value, where)


def _own(name: str, node: Any, where: str) -> Any:
    """A setting of one SAE."""
    keys = all_keys()
    if name in keys and name != "hook_point" and keys[name].group != _OF_ONE_SAE and not keys[name].architectures:
        raise FeaturewatchError(
            f"{where}: {name}", "it is the same for all SAEs of a run", "write it above, outside of saes"
        )
    return _value(name, node, where)


def _plain_value(node: Any) -> Any:
    return yaml.SafeLoader("").construct_object(node, deep=True)


def _text(node: Any, where: str) -> str:
    value = _plain_value(node)
    if value is not None and not isinstance(value, str):
        raise FeaturewatchError(f"{where}: model {value!r}", "it must be a text", "give a folder or id")
    return value or ""


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _shown(key: Key) -> Any:
    default = key.default
    return [] if key.is_list and default is None else plain({"": default})[""]


def _help(key: Key) -> str:
    text = default_text(key)
    return key.help + (f" Default: {text}." if text else "")


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 116)]


def _line(name: str, value: Any) -> str:
    text = str(yaml.safe_dump(value, default_flow_style=True, width=4096))
    return f"{name}: {text.strip().removesuffix('...').strip()}"
