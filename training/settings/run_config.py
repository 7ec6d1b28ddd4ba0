"""Everything that one run of `featurewatch train` is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from training.harvest.compute import forward_device, forward_dtype
from training.harvest.config import HarvestConfig
from training.models.paths import featurewatch_home
from training.output_config import OutputConfig
from training.settings.keys import run_keys
from training.settings.sweep import sweep
from training.settings.values import Values
from training.settings.yaml_file import FileSettings
from training.trainer.config import TrainConfig
from training.trainer.sae_config import SaeConfig


@dataclass(frozen=True)
class RunConfig:
    """A run.

    Attributes:
        model_as_typed: for cards and commands; `harvest.model` is the folder that it stands for.
        harvest, train, output: common settings.
        saes: by name: the folder below `output.out`.
        values, entries: the settings as they were given, to write them down again.
    """

    model_as_typed: str
    harvest: HarvestConfig
    train: TrainConfig
    output: OutputConfig
    saes: dict[str, SaeConfig]
    values: Values
    entries: tuple[Values, ...] = ()

    @property
    def folders(self) -> dict[str, Path]:
        return {name: self.output.out / name for name in self.saes}

    def to_repeat(self) -> Values:
        """The given settings with the dtype that `auto` stands for here, without the cache: that is no part of what is
        made, and may be gone."""
        dtype = str(forward_dtype(self.harvest.dtype, forward_device())).removeprefix("torch.")
        kept = {name: value for name, value in self.values.items() if name != "cache"}
        return {**kept, "dtype": dtype, "out": self.output.out, "tokens": self.harvest.tokens}


def run_config(
    model: str,
    values: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]] = (),
    places: Sequence[str] = (),
    *,
    model_as_typed: str = "",
) -> RunConfig:
    """Puts settings by name together, what is not given being the default.

    Args:
        model: Hugging Face folder or id.
        values: common settings, see `training.settings.keys`.
        entries: settings of single SAEs (`saes` in YAML).
        places: where the entries are, for messages.
        model_as_typed: if another text stands for the model.

    Raises:
        FeaturewatchError: a value out of range, a setting of another architecture, settings that exclude each other.
    """
    given = dict(values)
    seeds = given.get("seed", 0)
    seed = seeds[0] if isinstance(seeds, list) else seeds
    points = list(given.get("hook_point", []))
    for entry in entries:
        points += [point for point in entry.get("hook_point", []) if point not in points]
    name = str(given.get("name", "")) or Path(model).name
    cache = given.get("cache") or featurewatch_home() / "activations" / name
    own = {"model": model, "seed": seed, "cache": cache, "hook_points": tuple(points)}
    harvest = HarvestConfig(**{**_fields(HarvestConfig, given), **own})
    config = RunConfig(
        model_as_typed=model_as_typed or model,
        harvest=harvest,
        train=TrainConfig(**_fields(TrainConfig, given)),
        output=OutputConfig(**{**_fields(OutputConfig, given), "name": name}),
        saes=sweep(given, entries, places),
        values=given,
        entries=tuple(dict(entry) for entry in entries),
    )
    _require_inference(config)
    return config


def merged(file: FileSettings, flags: Mapping[str, Any]) -> Values:
    """The file's common settings, with the flags in their place; raises FeaturewatchError."""
    for name in flags:
        for entry, place in zip(file.entries, file.places, strict=True):
            if name in entry:
                raise FeaturewatchError(
                    f"--{name.replace('_', '-')} beside a file that sets {name} of a single SAE ({place})",
                    "a flag replaces a setting of the whole run",
                    "change it in the file",
                )
    return {**file.values, **flags}


def _fields(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key.field: tuple(values[key.name]) if key.is_list else values[key.name]
        for key in run_keys().values()
        if owner in key.owners and key.name in values
    }


def _require_inference(config: RunConfig) -> None:
    wanted = config.train.inference
    architectures = sorted({sae.options.architecture for sae in config.saes.values()})
    if wanted == "topk" and set(architectures) != {"topk"}:
        raise FeaturewatchError(
            f"inference topk with architecture {', '.join(architectures)}",
            "only a TopK SAE can be stored as TopK",
            "leave --inference out",
        )
