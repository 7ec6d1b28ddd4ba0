"""`featurewatch policy reload`."""

from __future__ import annotations

from typing import Annotated

import typer

from monitor.cli.common import TlsCa, TlsCert, TlsKey, console
from monitor.cli.policy.history import event_line
from monitor.cli.policy.remote import SECONDS, ActorOption, SidecarOption, actor_or_user, policy_service
from monitor.cli.problems import print_problems, told_problems
from monitor.rpc import ClientTls


def reload(  # noqa: PLR0917 - one parameter per command-line option
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.", show_default=False)
    ] = "",
    actor: ActorOption = None,
    sidecar: SidecarOption = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Have the sidecar read its policy files again, all or nothing. Requests that run finish on what they began with.

    Exit code 0: they are in force, or nothing had changed. 2: something is wrong, and all policies stay as they were.
    """
    from monitor.v1.policies_pb2 import ReloadPoliciesRequest

    request = ReloadPoliciesRequest(actor=actor_or_user(actor), reason=reason)
    with policy_service(sidecar, ClientTls(tls_ca, tls_cert, tls_key)) as service:
        response = service.ReloadPolicies(request, timeout=SECONDS)
    if response.problems:
        print_problems(told_problems(response.problems), "; all policies stay as they were")
        raise typer.Exit(2)
    for event in response.events:
        console.print(event_line(event), soft_wrap=True)
    if not response.events:
        console.print("Nothing has changed.")
