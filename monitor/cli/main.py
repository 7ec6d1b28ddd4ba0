"""Entry point of the `featurewatch` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from monitor import __version__
from monitor.cli import activations, alerts, audit, cache, model, policy, sae
from monitor.cli.common import err_console
from monitor.cli.demo import demo
from monitor.cli.discover import discover
from monitor.cli.harvest import harvest
from monitor.cli.help_text import flow_help
from monitor.cli.printable import printable_lines
from monitor.cli.problems import print_problems
from monitor.cli.sidecar import sidecar
from monitor.cli.train import TrainCommand, train
from monitor.cli.verify import verify
from monitor.errors import FeaturewatchError
from monitor.policy import PolicyError

# The sidecar's image has none of these; only some commands need them.
_EXTRA_OF = {
    **dict.fromkeys(
        ("accelerate", "filelock", "gguf", "requests", "scipy", "sklearn", "tensorboardX", "torch", "transformers"),
        "training",
    ),
    **dict.fromkeys(("datasets", "huggingface_hub", "pyarrow"), "training"),
    "openai": "demo",
}

app = typer.Typer(
    help="Watch what a language model represents while it serves traffic.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo)
app.command("sidecar")(sidecar)
app.command("verify")(verify)
app.add_typer(model.app, name="model")
app.command("train", cls=TrainCommand)(train)
app.command("harvest")(harvest)
app.add_typer(cache.app, name="cache")
app.add_typer(sae.app, name="sae")
app.add_typer(activations.app, name="activations")
app.command("discover")(discover)
app.add_typer(policy.app, name="policy")
app.add_typer(alerts.app, name="alerts")
app.add_typer(audit.app, name="audit")
flow_help(app)


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
    except PolicyError as error:
        print_problems(error.problems)
        sys.exit(2)
    except FeaturewatchError as error:
        _say(error)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        missing = FeaturewatchError(
            f"Python package {error.name}",
            "this command needs it and it is not installed",
            f"install featurewatch with its extra {extra!r}, in a checkout: pip install '.[{extra}]'",
        )
        _say(missing)
        sys.exit(2)
    except OSError as error:
        # A path from the command line, wherever it was first looked at: too long, not permitted, a full disk.
        if error.filename is None:
            raise
        _say(
            FeaturewatchError(
                f"{error.filename} ({error.strerror})",
                "it must be a file or folder that this user may use",
                "check the path, its permissions and the space on its disk",
            )
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _say(error: FeaturewatchError) -> None:
    # It may quote ids that clients chose.
    text = printable_lines(str(error))
    err_console.print(f"[bold red]error:[/bold red] {escape(text)}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
