"""What every sub-command shares: consoles, default places, model names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from monitor.errors import FeaturewatchError
from monitor.rpc import ClientTls, Target
from training.models.paths import featurewatch_home, resolve_model

__all__ = [
    "SIDECAR_HELP",
    "TlsCa",
    "TlsCert",
    "TlsKey",
    "client_tls",
    "console",
    "default_policies",
    "default_socket",
    "default_zoo",
    "err_console",
    "home",
    "resolve_model",
]

SIDECAR_HELP = "unix:<path>, host:port or tls:host:port; default: the sidecar of this user on this host."

TlsCa = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Who signs the sidecar's certificate, PEM. Default: $FEATUREWATCH_TLS_CA, else the public authorities.",
        show_default=False,
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Own certificate, PEM. Default: $FEATUREWATCH_TLS_CERT, else none.", show_default=False
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Key of --tls-cert, PEM. Default: $FEATUREWATCH_TLS_KEY, else none.", show_default=False
    ),
]

console = Console()
err_console = Console(stderr=True)

_PROJECT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """The user's featurewatch cache folder (see `training.models.paths.featurewatch_home`)."""
    return featurewatch_home()


def default_socket() -> str:
    """gRPC target of the sidecar on this host."""
    return f"unix:{home() / 'sidecar.sock'}"


def default_zoo() -> list[Path]:
    """Folders that are searched for SAEs: this checkout's and the user's."""
    return [path for path in (_PROJECT / "zoo", home() / "zoo") if path.is_dir()]


def default_policies() -> Path:
    """The policy folder of this checkout."""
    return _PROJECT / "policies"


def client_tls(target: Target, ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> ClientTls:
    """What the options say, and where they say nothing the environment; raises FeaturewatchError."""
    given = ClientTls(ca, cert, key)
    if given and not target.tls:
        raise FeaturewatchError(
            f"TLS options with {target}",
            "that address is reached without TLS",
            "write tls:host:port, or leave them out",
        )
    found = ClientTls.from_environ(os.environ)
    if cert is None and key is None:
        cert, key = found.cert, found.key
    return ClientTls(ca or found.ca, cert, key)
