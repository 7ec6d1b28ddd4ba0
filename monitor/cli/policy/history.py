"""`featurewatch policy history`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from monitor.cli.common import TlsCa, TlsCert, TlsKey, console
from monitor.cli.policy.history_source import must_know, open_history
from monitor.cli.policy.remote import SidecarOption
from monitor.cli.printable import printable_line
from monitor.cli.since import parse_since
from monitor.rpc import ClientTls, name_of

if TYPE_CHECKING:
    from monitor.v1.policies_pb2 import PolicyEvent

_STYLES = {"refused": "red", "stale": "red", "mode_set": "yellow", "mode_reset": "yellow", "removed": "yellow"}
_HASH = 12


def history(  # noqa: PLR0917 - one parameter per command-line option
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only this policy.", show_default="all policies")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only later ones: 30m, 12h, 7d ago, or a date.", show_default="all"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest.")] = 100,
    sidecar: SidecarOption = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="FILE", help="Read this file instead of asking a sidecar.", show_default=False),
    ] = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show who changed which policy or mode, when and why, the oldest first; also what was refused.

    Exit code 0: done, also when nothing changed. 2: neither the sidecar nor its store knows such a policy, or cannot be
    asked.
    """
    from google.protobuf.json_format import MessageToJson

    after = 0 if since is None else parse_since(since, datetime.now().astimezone())
    with open_history(store, sidecar, ClientTls(tls_ca, tls_cert, tls_key)) as source:
        events = source.events(name or "", after, limit)
        if name and not events:
            must_know(source, name)
    for event in events:
        if json:
            typer.echo(MessageToJson(event, preserving_proto_field_name=True, indent=None, ensure_ascii=True))
        else:
            console.print(event_line(event), soft_wrap=True)
    if not events and not json:
        of_which = f" of a policy {printable_line(name)}" if name else ""
        since_when = f" since {since}" if since else ""
        console.print(f"No change{of_which} is known{since_when}.", highlight=False, markup=False)


def event_line(event: PolicyEvent) -> Text:
    """One line: when, what, of which policy, from what to what, by whom and why."""
    from monitor.cli.render import clock_time
    from monitor.v1.alerts_pb2 import Mode
    from monitor.v1.policies_pb2 import PolicyEvent

    kind = name_of(PolicyEvent.Kind, event.kind)
    line = Text()
    line.append(f"{clock_time(event.time_unix_nanos)} ", "dim")
    line.append(f"{kind.replace('_', ' '):<10} ", _STYLES.get(kind, "green"))
    line.append(printable_line(event.policy or "policy files"), "bold")
    if event.old_revision != event.new_revision and event.old_revision and event.new_revision:
        line.append(f"  revision {event.old_revision} → {event.new_revision}")
    elif event.new_revision or event.old_revision:
        line.append(f"  revision {event.new_revision or event.old_revision}")
    sha256 = event.new_sha256 or event.old_sha256
    if sha256:
        line.append(f" {printable_line(sha256[:_HASH])}", "dim")
    modes = [name_of(Mode, mode) for mode in (event.old_mode, event.new_mode) if mode]
    if modes:
        line.append(f"  {' → '.join(dict.fromkeys(modes))}")
    line.append(f"  by {printable_line(event.actor)}", "cyan")
    if event.reason:
        line.append(f"  “{printable_line(event.reason)}”")
    if event.detail:
        line.append(f"  {printable_line(event.detail)}", "dim")
    return line
