"""`featurewatch cache`: what an activation cache holds, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monitor.cli.common import console

app = typer.Typer(help="Activation caches.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the cache.")]


@app.command("info")
def info(folder: Folder) -> None:
    """Rows, what was left out and why, norms."""
    from training.harvest.manifest import Manifest
    from training.harvest.report import report

    manifest = Manifest.load(folder)
    console.print(report(manifest), highlight=False, soft_wrap=True)
    if not manifest.complete:
        console.print("not complete: the harvest with the same settings goes on from here")


@app.command("verify")
def verify(folder: Folder) -> None:
    """Read every file and compare it with the checksum that the harvest noted."""
    from training.harvest.cache import ActivationCache

    files, size = ActivationCache(folder).require_whole()
    console.print(f"{files:,} files, {size / 1e9:.2f} GB: whole", highlight=False)
