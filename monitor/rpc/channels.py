"""Channels to a sidecar, for every client: with TLS where the target says so."""

from __future__ import annotations

import grpc

from monitor.rpc.options import CHANNEL_OPTIONS
from monitor.rpc.target import Target
from monitor.rpc.tls import ClientTls

NO_TLS = ClientTls()


def open_channel(target: Target, tls: ClientTls = NO_TLS) -> grpc.Channel:
    """A channel to use as a context; `tls` counts for `tls:` targets only. Raises FeaturewatchError."""
    if target.tls:
        return grpc.secure_channel(target.grpc, tls.credentials(), options=CHANNEL_OPTIONS)
    return grpc.insecure_channel(target.grpc, options=CHANNEL_OPTIONS)


def open_aio_channel(target: Target, tls: ClientTls = NO_TLS) -> grpc.aio.Channel:
    """The same for asyncio."""
    if target.tls:
        return grpc.aio.secure_channel(target.grpc, tls.credentials(), options=CHANNEL_OPTIONS)
    return grpc.aio.insecure_channel(target.grpc, options=CHANNEL_OPTIONS)
