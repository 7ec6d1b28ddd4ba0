"""The verdict for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.table import Table
from rich.text import Text

from monitor.cli.printable import printable_line
from monitor.cli.verify.checks import Check


def table(checks: Sequence[Check]) -> Table:
    """One row a check."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "check", "found", "wanted"):
        shown.add_column(column, overflow="fold")
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("FAIL", style="bold red")
        shown.add_row(mark, *(Text(printable_line(text)) for text in (check.name, check.found, check.wanted)))
    return shown


def as_json(checks: Sequence[Check]) -> str:
    """One object: ``ok`` and all checks."""
    return json.dumps({"ok": all(check.ok for check in checks), "checks": [asdict(check) for check in checks]})
