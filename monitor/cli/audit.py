"""`featurewatch audit`: generations that were judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from monitor.cli.audit_reader import open_reader
from monitor.cli.audit_table import audit_table
from monitor.cli.common import SIDECAR_HELP, TlsCa, TlsCert, TlsKey, console, default_socket
from monitor.cli.evidence import render_evidence
from monitor.cli.printable import printable_line
from monitor.cli.render import render_generation
from monitor.rpc import ClientTls

app = typer.Typer(help="Look at judged generations.", no_args_is_help=True)

_Sidecar = Annotated[str | None, typer.Option("--sidecar", metavar="TARGET", help=SIDECAR_HELP, show_default=False)]
_Store = Annotated[
    Path | None,
    typer.Option("--store", metavar="FILE", help="Read this file instead of asking a sidecar.", show_default=False),
]


@app.callback()
def _audit() -> None:
    """Look at judged generations."""


@app.command("list")
def list_(  # noqa: PLR0917 - one parameter per command-line option
    sidecar: _Sidecar = None,
    store: _Store = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    all_: Annotated[bool, typer.Option("--all", help="Also the latest that nothing flagged (from a sidecar).")] = False,
    tenant: Annotated[
        str, typer.Option(metavar="PATTERN", help="Only of tenants that this shell pattern fits.", show_default=False)
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many, the newest.")] = 50,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List generations, the newest first."""
    with open_reader(sidecar, store, ClientTls(tls_ca, tls_cert, tls_key)) as reader:
        summaries = reader.summaries(limit, unflagged=all_, tenant=tenant)
    if json:
        for summary in summaries:
            typer.echo(_json(summary, indent=None))
    elif summaries:
        console.print(audit_table(summaries, console.width))
    elif tenant:
        console.print("No such generation of a tenant that the pattern fits.")
    else:
        console.print(
            "No generation yet."
            if all_
            else "No generation was flagged yet; with a running sidecar --all shows the others."
        )


@app.command("show")
def show(  # noqa: PLR0917 - one parameter per command-line option
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="Generation, request or client id, or the beginning of one.")
    ],
    sidecar: _Sidecar = None,
    store: _Store = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with everything that is stored.")] = False,
) -> None:
    """Show one generation: tokens coloured by score, the rules that fired, the evidence, what was not seen."""
    with open_reader(sidecar, store, ClientTls(tls_ca, tls_cert, tls_key)) as reader:
        record = reader.record(id_)
    if json:
        typer.echo(_json(record, indent=2))
    else:
        console.print(render_generation(record), highlight=False)


@app.command("capture")
def capture(  # noqa: PLR0917 - one parameter per command-line option
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="Generation, request or client id, or the beginning of one.")
    ],
    sidecar: _Sidecar = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    hook_points: Annotated[
        list[str] | None, typer.Option("--hook-point", metavar="NAME", help="May be repeated.", show_default="all")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The whole record as JSON.")] = False,
) -> None:
    """Take a generation's residual rows out of the engine's flight recorder, and see what the SAEs say of each token.

    Works while it runs and for a while after. The evidence is stored in its record.
    """
    with open_reader(sidecar or default_socket(), None, ClientTls(tls_ca, tls_cert, tls_key)) as reader:
        record = reader.capture(id_, hook_points or ())
    if json:
        typer.echo(_json(record, indent=2))
    else:
        console.print(render_evidence(record.evidence, record), highlight=False)
        console.print(f"Stored: featurewatch audit show {printable_line(record.summary.generation_id)[:8]}")


def _json(message: Message, indent: int | None) -> str:
    # ASCII: nothing in a transcript can steer the terminal, and no reader takes a character in it for a line end.
    return MessageToJson(message, preserving_proto_field_name=True, indent=indent, ensure_ascii=True)
