"""`featurewatch policy mode`."""

from __future__ import annotations

from typing import Annotated

import typer

from monitor.cli.common import TlsCa, TlsCert, TlsKey, console
from monitor.cli.policy.remote import SECONDS, ActorOption, SidecarOption, actor_or_user, policy_service
from monitor.cli.policy.status import status_remarks, status_table
from monitor.errors import FeaturewatchError
from monitor.rpc import ClientTls, from_name


def mode(  # noqa: PLR0917 - one parameter per command-line option
    name: Annotated[str, typer.Argument(metavar="NAME", help="The policy.", show_default=False)],
    mode: Annotated[
        str | None,
        typer.Argument(
            metavar="MODE",
            help="off: not evaluated. shadow: evaluated and recorded. alert: alerts are sent. enforce: acts as alert.",
            show_default=False,
        ),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit. Required.")] = "",
    actor: ActorOption = None,
    reset: Annotated[bool, typer.Option("--reset", help="Instead of MODE: take an earlier change back.")] = False,
    sidecar: SidecarOption = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Change a policy's mode while the sidecar runs, for requests that run, too. The change is audited.

    It holds until it is taken back with --reset, the policy's file is removed, or the sidecar ends: for good, change
    the file. A policy that is switched on judges the requests that begin from then on.

    Exit code 0: it is in force. 2: the sidecar has no such policy, it does not answer, or something is missing.
    """
    from monitor.v1.alerts_pb2 import Mode
    from monitor.v1.policies_pb2 import SetPolicyModeRequest

    if reset == (mode is not None):
        raise FeaturewatchError(
            f"policy mode {name}{' ' + mode if mode else ''}{' --reset' if reset else ''}",
            "it takes a mode to set, or --reset to take the last one back",
            "give one of them",
        )
    if not reason.strip():
        raise FeaturewatchError(
            "--reason", "the audit says why a mode was changed", 'add --reason "what those on call must know"'
        )
    request = SetPolicyModeRequest(
        policy=name,
        mode=Mode.MODE_UNSPECIFIED if mode is None else from_name(Mode, mode),
        actor=actor_or_user(actor),
        reason=reason,
    )
    with policy_service(sidecar, ClientTls(tls_ca, tls_cert, tls_key)) as service:
        found = service.SetPolicyMode(request, timeout=SECONDS).status
    console.print(status_table([found], console.width))
    for line in status_remarks([found]):
        console.print(line)
