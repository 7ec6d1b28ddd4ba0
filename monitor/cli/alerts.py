"""`featurewatch alerts`: alerts as they happen."""

from __future__ import annotations

import asyncio
from typing import Annotated

import grpc
import typer
from rich.markup import escape

from monitor.cli.common import (
    SIDECAR_HELP,
    TlsCa,
    TlsCert,
    TlsKey,
    client_tls,
    console,
    default_socket,
    err_console,
)
from monitor.cli.render import alert_line
from monitor.emit import alert_event
from monitor.errors import FeaturewatchError
from monitor.rpc import ClientTls, Target, call_error, open_aio_channel
from monitor.v1.alerts_pb2 import WatchAlertsRequest, WatchAlertsResponse
from monitor.v1.alerts_pb2_grpc import AlertServiceStub

app = typer.Typer(help="Watch alerts.", no_args_is_help=True)

_CONNECT_SECONDS = 5.0
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@app.callback()
def _alerts() -> None:
    """Watch alerts."""


@app.command("watch")
def watch(  # noqa: PLR0917 - one parameter per command-line option
    sidecar: Annotated[str, typer.Option(metavar="TARGET", help=SIDECAR_HELP, show_default=False)] = "",
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this policy; may be repeated.", show_default=False)
    ] = None,
    include_shadow: Annotated[
        bool, typer.Option("--include-shadow", help="Also what policies in shadow mode would have alerted.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as in the alerts file.")] = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Print alerts as they happen, one line each, until Ctrl-C. Survives a restart of the sidecar."""
    target = Target.parse(sidecar or default_socket())
    request = WatchAlertsRequest(policies=policy or [], include_shadow=include_shadow)
    asyncio.run(_watch(target, client_tls(target, tls_ca, tls_cert, tls_key), request, json))


async def _watch(target: Target, tls: ClientTls, request: WatchAlertsRequest, json: bool) -> None:
    async with open_aio_channel(target, tls) as channel:
        stub = AlertServiceStub(channel)
        connected = False
        while True:
            # The first connection must succeed soon; afterwards a sidecar that is gone is waited for.
            call = stub.WatchAlerts(request, wait_for_ready=connected)
            try:
                await asyncio.wait_for(call.wait_for_connection(), None if connected else _CONNECT_SECONDS)
                if connected:
                    _say(f"Connected to {target} again.")
                else:
                    _say(f"Watching {target}.")
                connected = True
                async for response in call:
                    _show(response, json)
                _say(f"The sidecar at {target} shut down; waiting for it to come back.")
            except TimeoutError:
                call.cancel()
                raise FeaturewatchError(
                    f"sidecar at {target}",
                    f"something listens there, but no alert service answered within {_CONNECT_SECONDS:g} s",
                    "look whether that is a sidecar and at its log, or give another address with --sidecar",
                ) from None
            except grpc.aio.AioRpcError as error:
                if not connected or error.code() not in _GONE:
                    raise call_error(error, target) from error
                _say(f"The sidecar at {target} went away; waiting for it to come back.")


def _show(response: WatchAlertsResponse, json: bool) -> None:
    if response.missed:
        _say(f"{response.missed} alerts were missed: this terminal was too slow.")
    if json:
        typer.echo(alert_event(response.alert).line)
    else:
        console.print(alert_line(response.alert), highlight=False, soft_wrap=True)


def _say(text: str) -> None:
    err_console.print(f"[dim]{escape(text)}[/dim]", highlight=False, soft_wrap=True)
