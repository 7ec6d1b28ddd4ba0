"""Entry point of the `featurewatch` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from monitor import __version__
from monitor.cli import alerts, audit, model, policy, sae
from monitor.cli.common import err_console
from monitor.cli.demo import demo
from monitor.cli.discover import discover
from monitor.cli.sidecar import sidecar
from monitor.cli.train import train
from monitor.errors import FeaturewatchError

app = typer.Typer(
    help="Watch what a language model represents while it serves traffic.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo)
app.command("sidecar")(sidecar)
app.add_typer(model.app, name="model")
app.command("train")(train)
app.add_typer(sae.app, name="sae")
app.command("discover")(discover)
app.add_typer(policy.app, name="policy")
app.add_typer(alerts.app, name="alerts")
app.add_typer(audit.app, name="audit")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featurewatch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command; a bad input becomes one readable message and exit code 2."""
    try:
        app()
    except FeaturewatchError as error:
        err_console.print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
