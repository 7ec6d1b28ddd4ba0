"""Errors that cross the wire: a FeaturewatchError as `google.rpc.Status` with `ErrorInfo`, and back.

The status message is the readable sentence; `ErrorInfo.reason` is for programs, and its metadata carries subject, rule
and remedy.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from monitor.errors import FeaturewatchError
from monitor.rpc.target import Target

ERROR_DOMAIN: Final = "monitor.v1"
_DETAILS_KEY: Final = "grpc-status-details-bin"


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, reason: str, error: FeaturewatchError
) -> NoReturn:
    """Ends a call with `error`; `reason` is an UPPER_SNAKE_CASE word that programs may rely on."""
    info = error_details_pb2.ErrorInfo(
        reason=reason,
        domain=ERROR_DOMAIN,
        metadata={"subject": error.subject, "rule": error.rule, "remedy": error.remedy},
    )
    status = status_pb2.Status(code=code.value[0], message=str(error))
    status.details.add().Pack(info)
    await context.abort(code, str(error), ((_DETAILS_KEY, status.SerializeToString()),))


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo a server attached, or None."""
    metadata: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    for key, value in metadata or ():
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:
            # Details of a foreign server; the code and the message still tell what happened.
            return None
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                return info
    return None


def call_error(error: grpc.RpcError, target: Target) -> FeaturewatchError:
    """A failed call as the error that a person reads."""
    info = error_info(error)
    if info is not None and info.domain == ERROR_DOMAIN:
        return FeaturewatchError(info.metadata["subject"], info.metadata["rule"], info.metadata["remedy"])
    code: grpc.StatusCode = error.code()
    if code is grpc.StatusCode.UNAVAILABLE and target.tls:
        return FeaturewatchError(
            f"sidecar at {target}",
            f"nothing answers there that both sides accept ({error.details()})",
            "check that it runs, that --tls-ca names who signed its certificate, that the certificate names this host, "
            "and that --tls-cert and --tls-key are given if it asks clients for one; its log may say more",
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return FeaturewatchError(
            f"sidecar at {target}",
            f"nothing answers there ({error.details()})",
            "start one with `featurewatch sidecar` or give another address with --sidecar",
        )
    return FeaturewatchError(
        f"call to the sidecar at {target}",
        f"it failed with {code.name}: {error.details()}",
        "look at the sidecar's log",
    )
