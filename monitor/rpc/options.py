"""gRPC options of clients and servers, chosen so that they agree with each other.

A client that pings more often than its server permits is cut off with `too_many_pings`: the client pings every 30 s,
also without a call, and the server permits a ping every 20 s.
"""

from __future__ import annotations

from typing import Final

CLIENT_PING_SECONDS: Final = 30
SERVER_PERMITS_PING_SECONDS: Final = 20
PING_TIMEOUT_SECONDS: Final = 10
# A watch plan holds [K, d] float32 weights: 64 MiB are 2,048 directions of width 8,192.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024

Options = tuple[tuple[str, int], ...]

_SHARED: Final[Options] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

CHANNEL_OPTIONS: Final[Options] = (
    *_SHARED,
    ("grpc.keepalive_time_ms", CLIENT_PING_SECONDS * 1000),
    # A sidecar that restarts is found again within two seconds. The minimum is how long an attempt may take: a TLS
    # handshake over a long way, or a host with too much to do.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Never through a proxy: the sidecar is on this host or in this network.
    ("grpc.enable_http_proxy", 0),
    # Own connections per channel: one client's back-off is not another's.
    ("grpc.use_local_subchannel_pool", 1),
)

SERVER_OPTIONS: Final[Options] = (
    *_SHARED,
    ("grpc.http2.min_ping_interval_without_data_ms", SERVER_PERMITS_PING_SECONDS * 1000),
    ("grpc.keepalive_time_ms", CLIENT_PING_SECONDS * 1000),
    # Two sidecars must not share a TCP port by accident.
    ("grpc.so_reuseport", 0),
)
