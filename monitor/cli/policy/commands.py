"""The sub-commands of `featurewatch policy`, in the order in which a policy needs them.

Each imports what is slow to import when it runs.
"""

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

_FILES, _CHANGE, _RUNNING = "Write a policy", "Before and after a change", "At a running sidecar"

app = typer.Typer(
    help="Write, check and roll out policies: files that say what is watched, when it counts and what happens then.",
    no_args_is_help=True,
)


@app.callback()
def _policy() -> None:
    """Makes a group of it."""


app.command("schema", rich_help_panel=_FILES)(schema)
app.command("check", rich_help_panel=_FILES)(check)
app.command("test", rich_help_panel=_FILES)(run_policy_tests)
app.command("calibrate", rich_help_panel=_FILES)(calibrate)
app.command("diff", rich_help_panel=_CHANGE)(diff)
app.command("replay", rich_help_panel=_CHANGE)(replay)
app.command("explain", rich_help_panel=_CHANGE)(explain)
app.command("status", rich_help_panel=_RUNNING)(status)
app.command("mode", rich_help_panel=_RUNNING)(mode)
app.command("reload", rich_help_panel=_RUNNING)(reload)
app.command("history", rich_help_panel=_RUNNING)(history)
