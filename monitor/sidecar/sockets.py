"""Addresses to listen on: refused when another process has them, cleared when a dead one left them behind."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc

from monitor.errors import FeaturewatchError
from monitor.rpc import ServerTls, Target

_log = logging.getLogger(__name__)

_OWNER_ONLY = 0o177


def bind(
    server: grpc.aio.Server, target: Target, *, insecure_tcp: bool, credentials: grpc.ServerCredentials | None = None
) -> Target:
    """Makes `server` listen and returns the address with the port the system chose.

    A Unix socket is readable and writable by its owner only; gRPC removes its file when the server stops. Raises
    FeaturewatchError when the address is in use, may not be used, or is reachable from other machines without TLS and
    without `insecure_tcp`. `credentials` are of a `tls:` address.
    """
    if target.path is not None:
        _clear_stale(target.path)
        with _umask(_OWNER_ONLY):
            _add_port(server, target)
        return target
    if target.tls:
        assert credentials is not None  # `check_tls` has seen to it
        return replace(target, port=_add_port(server, target, credentials))
    if not target.is_loopback and not insecure_tcp:
        raise FeaturewatchError(
            f"TCP address {target}",
            "other machines can reach it, and without TLS anyone could read prompts and send frames",
            f"write tls:{target}, listen on 127.0.0.1 or a Unix socket, or pass --insecure-tcp in a trusted network",
        )
    return replace(target, port=_add_port(server, target))


def check_tls(targets: Sequence[Target], tls: ServerTls | None) -> grpc.ServerCredentials | None:
    """Credentials for the `tls:` addresses, None if there are none. Raises FeaturewatchError when they do not fit."""
    wanted = [target for target in targets if target.tls]
    if tls is None:
        if wanted:
            raise FeaturewatchError(
                f"address {wanted[0]}", "TLS needs a certificate and its key", "add --tls-cert FILE and --tls-key FILE"
            )
        return None
    if not wanted:
        raise FeaturewatchError(
            f"--tls-cert {tls.cert}",
            "no address is served with TLS",
            "write --listen tls:host:port, or leave the TLS options out",
        )
    credentials = tls.credentials()
    if tls.client_ca is None and not all(target.is_loopback for target in wanted):
        _log.warning("clients are not asked for certificates: whoever reaches %s can read prompts", wanted[0])
    return credentials


def _add_port(server: grpc.aio.Server, target: Target, credentials: grpc.ServerCredentials | None = None) -> int:
    try:
        if credentials is not None:
            return server.add_secure_port(target.grpc, credentials)
        return server.add_insecure_port(target.grpc)
    except RuntimeError as error:
        raise FeaturewatchError(
            f"address {target} ({_cause(target) or error})",
            "the sidecar must be able to listen there, and another process may have it",
            "stop that process or choose another address with --listen",
        ) from error


def _clear_stale(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            return
        mode = path.lstat().st_mode
    except OSError as error:
        raise FeaturewatchError(
            f"socket {path} ({error.strerror})", "its folder must be usable", "choose another path with --listen"
        ) from error
    if not stat.S_ISSOCK(mode):
        raise FeaturewatchError(
            f"socket path {path}", "something that is no socket is there", "choose another path with --listen"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise FeaturewatchError(
                f"socket {path} ({error.strerror or error})",
                "it is not known whether a sidecar listens there",
                "check its owner and permissions or choose another path with --listen",
            ) from error
    raise FeaturewatchError(
        f"socket {path}",
        "another process listens on it",
        "stop that sidecar or choose another path with --listen",
    )


def _cause(target: Target) -> str:
    """Why the system refuses the address; gRPC's own error does not say."""
    try:
        if target.path is not None:
            return "" if os.access(target.path.parent, os.W_OK) else f"no write permission in {target.path.parent}"
        family = socket.AF_INET6 if target.host.startswith("[") else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((target.host.strip("[]"), target.port))
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
