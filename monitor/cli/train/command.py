"""What `featurewatch train` does with its options."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from monitor.cli.common import console, err_console, resolve_model
from monitor.cli.train.options import own_parameters, parameters_of
from monitor.errors import FeaturewatchError
from training.settings.keys import Key
from training.settings.values import Values, checked

_OWN = ("model", "config", "dry_run", "print_config")


def command_with(keys: Mapping[str, Key]) -> Callable[..., None]:
    """The function of the command, with a parameter for each setting."""

    def run(**given: Any) -> None:
        model, config, dry_run, print_config = (given[name] for name in _OWN)
        flags = {
            name: checked(keys[name], value, "command line")
            for name, value in given.items()
            if name not in _OWN and value not in (None, [], ())
        }
        _run(model or "", config, flags, dry_run=dry_run, print_config=print_config)

    run.__signature__ = inspect.Signature([*own_parameters(), *parameters_of(keys)])  # type: ignore[attr-defined]
    return run


def _run(typed: str, file: Path | None, flags: Values, *, dry_run: bool, print_config: bool) -> None:
    from training import run
    from training.settings.run_config import merged, run_config
    from training.settings.yaml_file import FileSettings, read_settings, settings_text
    from training.trainer.stop import Interrupted

    held = read_settings(file) if file else FileSettings("", {}, (), ())
    model, values = typed or held.model, merged(held, flags)
    if print_config:
        console.out(settings_text(model, values, held.entries), end="", highlight=False)
        return
    if not model:
        raise FeaturewatchError("no model", "its folder or id is needed", "write featurewatch train MODEL ...")
    config = run_config(resolve_model(model), values, held.entries, held.places, model_as_typed=model)
    if dry_run:
        from monitor.cli.train.plan_table import show_plan
        from training.plan import make_plan

        show_plan(make_plan(config))
        return
    try:
        run.train_saes(config, err_console)
    except Interrupted as stopped:
        done = f"stopped after step {stopped.step:,} of {stopped.steps:,}; everything is saved. To go on from there:"
        err_console.print(
            f"{done}\n\n  {shlex.join(['featurewatch', *sys.argv[1:]])}\n", soft_wrap=True, highlight=False
        )
        raise typer.Exit(128 + stopped.number) from None
