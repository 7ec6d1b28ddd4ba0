"""Every setting of `featurewatch train`, from the fields of the configuration classes.

The settings that all runs have are known without torch; those of the architectures come from the registry.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from training.harvest.config import HarvestConfig
from training.output_config import OutputConfig
from training.trainer.config import TrainConfig
from training.trainer.sae_config import SaeOptions

GROUPS: Final[dict[str, type]] = {
    "Text and activations": HarvestConfig,
    "SAE": SaeOptions,
    "Training": TrainConfig,
    "Output": OutputConfig,
}
_NAMES: Final = {(HarvestConfig, "hook_points"): "hook_point", (OutputConfig, "dtype"): "weights_dtype"}
# The seed of SaeOptions is the harvest's too.
_LEFT_OUT: Final = {(HarvestConfig, "model"), (HarvestConfig, "seed")}
# The default is a folder of the user's, which is not for a file that others may use.
_HELP: Final = {"cache": " By default in the user's cache folder. An interrupted harvest or training goes on from it."}


@dataclass(frozen=True)
class Key:
    """One setting.

    Attributes:
        name: in YAML; with dashes, the flag.
        field: of the configuration class.
        owners: that class, or the settings classes of the architectures that have it.
        group: heading in help and YAML.
        type: int, float, str, bool or Path, of one value.
        is_list: the setting itself is a list.
        is_swept: several values make several SAEs.
        default: None where there is none, or where it depends on the architecture's recipe.
        architectures: that take it; empty for settings of every run.
        help: one sentence or two.
    """

    name: str
    field: str
    owners: tuple[type, ...]
    group: str
    type: type
    is_list: bool
    is_swept: bool
    default: Any
    architectures: tuple[str, ...]
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


@cache
def run_keys() -> dict[str, Key]:
    """Settings that every run has, by name."""
    found = {}
    for group, owner in GROUPS.items():
        for key in _keys_of(owner, group, ()):
            if (owner, key.field) not in _LEFT_OUT:
                found[key.name] = key
    return found


@cache
def architecture_keys() -> dict[str, Key]:
    """Settings of the architectures, by name. Needs torch."""
    from training.architectures.registry import ARCHITECTURES

    owners: dict[str, dict[str, type]] = {}
    for name, (_, settings) in ARCHITECTURES.items():
        for item in fields(settings):
            owners.setdefault(item.name, {})[name] = settings
    found = {}
    for field, holders in owners.items():
        names, classes = tuple(holders), tuple(dict.fromkeys(holders.values()))
        (first,) = [key for key in _keys_of(classes[0], "", names) if key.field == field]
        defaults = {key.default for owner in classes for key in _keys_of(owner, "", ()) if key.field == field}
        found[field] = Key(
            **{
                **vars(first),
                "group": f"Architecture {', '.join(names)}",
                "owners": classes,
                "default": first.default if len(defaults) == 1 else None,
            }
        )
    return dict(sorted(found.items(), key=lambda pair: pair[1].group))


def all_keys() -> dict[str, Key]:
    """Both, by name. Needs torch."""
    return {**run_keys(), **architecture_keys()}


def default_text(key: Key) -> str:
    """The default for people; where architectures differ, of each; empty when there is none."""
    if key.default is not None and key.default not in ((), "", False):
        return _plain(key.default)
    if not key.architectures:
        return ""
    from training.architectures.registry import ARCHITECTURES

    by_value: dict[str, list[str]] = {}
    for name in key.architectures:
        (default,) = [item.default for item in fields(ARCHITECTURES[name][1]) if item.name == key.field]
        if default not in (None, (), "", False):
            by_value.setdefault(_plain(default), []).append(name)
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _keys_of(owner: type, group: str, architectures: Sequence[str]) -> list[Key]:
    hints = get_type_hints(owner)
    return [_key(owner, item, hints[item.name], group, architectures) for item in fields(owner)]


def _key(owner: type, item: Any, hint: Any, group: str, architectures: Sequence[str]) -> Key:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = [one for one in get_args(hint) if one is not types.NoneType]
    is_list = get_origin(hint) is tuple
    kind = get_args(hint)[0] if is_list else hint
    if kind not in (int, float, str, bool, Path):
        raise TypeError(f"{owner.__name__}.{item.name}: no setting can be of type {hint}")
    name = _NAMES.get((owner, item.name), item.name)
    return Key(
        name=name,
        field=item.name,
        owners=(owner,),
        group=group,
        type=kind,
        is_list=is_list,
        is_swept=(owner is SaeOptions or bool(architectures)) and not is_list and kind is not bool,
        default=None if item.default is MISSING or name in _HELP else item.default,
        architectures=tuple(architectures),
        help=str(item.metadata["help"]) + _HELP.get(name, ""),
    )
