"""Calls to the PolicyService of a running sidecar, and the options that they share."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import grpc
import typer

from monitor.cli.common import SIDECAR_HELP, client_tls, default_socket
from monitor.errors import FeaturewatchError
from monitor.rpc import ClientTls, Target, call_error, open_channel

if TYPE_CHECKING:
    from monitor.v1.policies_pb2_grpc import PolicyServiceStub

SECONDS: Final = 30.0
"""Longest wait for an answer. A reload reads dictionaries that it has not read yet."""

SidecarOption = Annotated[
    str | None, typer.Option("--sidecar", metavar="TARGET", help=SIDECAR_HELP, show_default=False)
]
ActorOption = Annotated[
    str | None,
    typer.Option("--actor", metavar="NAME", help="Who asks, for the audit. Default: user@host.", show_default=False),
]


@contextmanager
def policy_service(sidecar: str | None, tls: ClientTls) -> Iterator[PolicyServiceStub]:
    """The service of a sidecar; calls that fail become a FeaturewatchError. `tls` is what the options say."""
    from monitor.v1.policies_pb2_grpc import PolicyServiceStub

    target = Target.parse(sidecar or default_socket())
    with open_channel(target, client_tls(target, tls.ca, tls.cert, tls.key)) as channel:
        try:
            yield PolicyServiceStub(channel)
        except grpc.RpcError as error:
            raise call_error(error, target) from error


def actor_or_user(actor: str | None) -> str:
    """Who asks; raises FeaturewatchError when that is neither said nor known."""
    if actor is not None:
        return actor
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError) as error:
        raise FeaturewatchError(
            "user of this process", "it has no name, and the audit says who asked", "give --actor NAME"
        ) from error
