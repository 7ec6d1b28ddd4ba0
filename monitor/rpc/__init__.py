"""What both ends of a gRPC connection share: targets, channel options, tensors as bytes, enum names, errors."""

from monitor.rpc.channels import open_aio_channel, open_channel
from monitor.rpc.enums import from_name, name_of
from monitor.rpc.errors import abort, call_error
from monitor.rpc.options import CHANNEL_OPTIONS, MAX_MESSAGE_BYTES, SERVER_OPTIONS
from monitor.rpc.residuals import check_residual_rows, residuals_from
from monitor.rpc.target import Target
from monitor.rpc.tensors import (
    WireFormatError,
    floats_from_bytes,
    floats_to_bytes,
    ints_from_bytes,
    ints_to_bytes,
)
from monitor.rpc.tls import ClientTls, ServerTls

PROTOCOL_VERSION = 1
"""Version of the tap's stream (`Hello.protocol_version`, `Welcome.protocol_version`)."""

__all__ = [
    "CHANNEL_OPTIONS",
    "MAX_MESSAGE_BYTES",
    "PROTOCOL_VERSION",
    "SERVER_OPTIONS",
    "ClientTls",
    "ServerTls",
    "Target",
    "WireFormatError",
    "abort",
    "call_error",
    "check_residual_rows",
    "floats_from_bytes",
    "floats_to_bytes",
    "from_name",
    "ints_from_bytes",
    "ints_to_bytes",
    "name_of",
    "open_aio_channel",
    "open_channel",
    "residuals_from",
]
