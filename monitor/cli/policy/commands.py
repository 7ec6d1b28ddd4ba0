"""The sub-commands of `featurewatch policy`. Each imports what is slow to import when it runs."""

from __future__ import annotations

import typer

from monitor.cli.policy.calibrate import calibrate
from monitor.cli.policy.check import check
from monitor.cli.policy.schema import schema
from monitor.cli.policy.test import run_policy_tests

app = typer.Typer(help="Write, check and roll out policies.", no_args_is_help=True)


@app.callback()
def _policy() -> None:
    """Write, check and roll out policies."""


app.command("calibrate")(calibrate)
app.command("check")(check)
app.command("schema")(schema)
app.command("test")(run_policy_tests)
