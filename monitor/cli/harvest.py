"""`featurewatch harvest`: fills an activation cache, for a training later or elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from monitor.cli.common import console, home, resolve_model
from monitor.cli.train.options import parameters_of
from training.harvest.config import HarvestConfig
from training.options import help_of
from training.settings.keys import run_keys
from training.settings.values import checked

_HELP = "Fill an activation cache with rows of MODEL, as `featurewatch train` with the same settings would."


def _made() -> Callable[..., None]:
    """The command, with a parameter for each setting of a harvest."""
    keys = {name: key for name, key in run_keys().items() if HarvestConfig in key.owners}

    def run(**given: Any) -> None:
        from training.harvest.lock import cache_lock
        from training.harvest.report import report
        from training.harvest.run import harvest

        model = resolve_model(given.pop("model"))
        values: dict[str, Any] = {"seed": given.pop("seed"), "cache": home() / "activations" / Path(model).name}
        for name, value in given.items():
            if value not in (None, [], ()):
                good = checked(keys[name], value, "command line")
                values[keys[name].field] = tuple(good) if keys[name].is_list else good
        config = HarvestConfig(model=model, **values)
        with cache_lock(config.cache):
            manifest = harvest(config)
        console.print(report(manifest), highlight=False, soft_wrap=True)
        console.print(f"→ {config.cache}", highlight=False, soft_wrap=True)

    keyword = inspect.Parameter.KEYWORD_ONLY
    model = inspect.Parameter(
        "model", keyword, default=typer.Argument(help=help_of(HarvestConfig, "model")), annotation=str
    )
    seed = inspect.Parameter(
        "seed", keyword, default=typer.Option(0, help=help_of(HarvestConfig, "seed")), annotation=int
    )
    run.__signature__ = inspect.Signature([model, *parameters_of(keys), seed])  # type: ignore[attr-defined]
    run.__doc__ = _HELP
    return run


harvest = _made()
