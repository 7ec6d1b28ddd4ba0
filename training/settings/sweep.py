"""From settings with several values to the SAEs of a run, each with a name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.settings.keys import Key, architecture_keys, run_keys
from training.settings.values import Values
from training.trainer.sae_config import SaeConfig, SaeOptions


def sweep(
    values: Mapping[str, Any], entries: Sequence[Mapping[str, Any]] = (), places: Sequence[str] = ()
) -> dict[str, SaeConfig]:
    """Every combination of the values, by name: the folder of the SAE below the output folder.

    The name is ``<hook point>`` where each hook point has one SAE, and ``<hook point>/<what tells them apart>`` else.

    Args:
        values: common settings; lists are swept.
        entries: each with its own settings, for SAEs that are no full product.
        places: where each entry is, for messages.

    Raises:
        FeaturewatchError: a setting that no chosen architecture has, or a value out of range.
    """
    saes: list[SaeConfig] = []
    for index, entry in enumerate(entries or ({},)):
        where = f"{places[index]}: " if index < len(places) else ""
        if entries:
            _require_belongs(entry, _architectures({**values, **entry}), where)
        saes += [sae for sae in _product({**values, **entry}) if sae not in saes]
    used = {sae.options.architecture for sae in saes}
    _require_belongs(values, sorted(used), "")
    return _named(saes)


def _product(values: Values) -> list[SaeConfig]:
    found = []
    for point, name in itertools.product(_listed(values.get("hook_point", [])), _architectures(values)):
        own = [key for key in architecture_keys().values() if name in key.architectures]
        options = [key for key in run_keys().values() if SaeOptions in key.owners]
        for chosen in _choices([*options, *own], {**values, "architecture": name}):
            settings = {key.field: _field_value(key, chosen[key.name]) for key in own if key.name in chosen}
            mine = SaeOptions(**{key.field: chosen[key.name] for key in options if key.name in chosen})
            found.append(SaeConfig.of(HookPoint.parse(point), mine, **settings))
    return found


def _choices(keys: Sequence[Key], values: Values) -> list[Values]:
    """All combinations of the given values of these settings."""
    named = [key for key in keys if key.name in values]
    given = {key.name: _listed(values[key.name]) if key.is_swept else [values[key.name]] for key in named}
    return [dict(zip(given, chosen, strict=True)) for chosen in itertools.product(*given.values())]


def _named(saes: Sequence[SaeConfig]) -> dict[str, SaeConfig]:
    points = [sae.hook_point for sae in saes]
    if len(set(points)) == len(points):
        return {str(sae.hook_point): sae for sae in saes}
    found: dict[str, SaeConfig] = {}
    for sae in saes:
        name = f"{sae.hook_point}/{_short_name(sae, saes)}"
        found[name] = sae
    return found


def _short_name(sae: SaeConfig, saes: Sequence[SaeConfig]) -> str:
    """Architecture, size, first setting of the architecture (its sparsity), seed, and what else differs."""
    options, settings = sae.options, sae.settings
    size = f"m{options.latents}" if options.latents else f"x{options.expansion}"
    alike = [other for other in saes if other.options.architecture == options.architecture]
    first = fields(settings)[0].name if fields(settings) else ""
    parts = [options.architecture, size]
    for item in fields(settings):
        value = getattr(settings, item.name)
        if item.name == first or any(getattr(other.settings, item.name) != value for other in alike):
            parts.append(_part(item.name, value))
    for item in fields(options):
        value = getattr(options, item.name)
        is_named = item.name in ("architecture", "expansion", "latents", "seed")
        if not is_named and any(getattr(other.options, item.name) != value for other in alike):
            parts.append(_part(item.name, value))
    return "-".join([*parts, f"s{options.seed}"])


def _part(name: str, value: Any) -> str:
    text = "_".join(f"{one:g}" if isinstance(one, float) else str(one) for one in _listed(value))
    return f"{name.replace('_', '-')}{text.replace('/', '_')}"


def _require_belongs(values: Mapping[str, Any], architectures: Sequence[str], where: str) -> None:
    """Raises FeaturewatchError for a setting that none of the architectures has."""
    keys = architecture_keys()
    for name in values:
        if name in keys and not set(keys[name].architectures) & set(architectures):
            theirs = [key.flag[2:] for key in keys.values() if set(key.architectures) & set(architectures)]
            raise FeaturewatchError(
                f"{where}{keys[name].flag[2:]} with architecture {', '.join(architectures)}",
                f"that takes {', '.join(theirs)}",
                f"leave it out, or choose an architecture that has it: {', '.join(keys[name].architectures)}",
            )


def _architectures(values: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in _listed(values.get("architecture", SaeOptions().architecture))]


def _field_value(key: Key, value: Any) -> Any:
    return tuple(value) if key.is_list else value


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
