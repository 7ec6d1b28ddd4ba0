"""The sub-commands of `featurewatch policy`. Each imports what is slow to import when it runs."""

from __future__ import annotations

import typer

from monitor.cli.policy.calibrate import calibrate
from monitor.cli.policy.check import check
from monitor.cli.policy.diff import diff
from monitor.cli.policy.explain import explain
from monitor.cli.policy.history import history
from monitor.cli.policy.mode import mode
from monitor.cli.policy.reload import reload
from monitor.cli.policy.replay import replay
from monitor.cli.policy.schema import schema
from monitor.cli.policy.status import status
from monitor.cli.policy.test import run_policy_tests

app = typer.Typer(help="Write, check and roll out policies.", no_args_is_help=True)


@app.callback()
def _policy() -> None:
    """Write, check and roll out policies."""


app.command("calibrate")(calibrate)
app.command("check")(check)
app.command("diff")(diff)
app.command("explain")(explain)
app.command("history")(history)
app.command("mode")(mode)
app.command("reload")(reload)
app.command("replay")(replay)
app.command("schema")(schema)
app.command("status")(status)
app.command("test")(run_policy_tests)
