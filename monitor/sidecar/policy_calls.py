"""What callers of PolicyService must say, and how they and policy faults are told apart."""

from __future__ import annotations

from typing import Any, Final

import grpc

from monitor.errors import FeaturewatchError
from monitor.policy import Mode as PolicyMode
from monitor.policy import Problem
from monitor.sidecar.policy_audit import DEFAULT_LIMIT, LARGEST_LIMIT, Cause
from monitor.v1.alerts_pb2 import Mode
from monitor.v1.policies_pb2 import PolicyProblem

_LONGEST: Final = 1000


def cause_of(actor: str, reason: str, context: grpc.aio.ServicerContext[Any, Any], *, need_reason: bool) -> Cause:
    """Who asks, with where from; raises FeaturewatchError when that is not said."""
    _require("actor", actor, needed=True)
    _require("reason", reason, needed=need_reason)
    return Cause(actor.strip(), reason.strip(), _peer(context))


def mode_of(mode: Mode.ValueType) -> PolicyMode | None:
    """None takes an override back; raises FeaturewatchError for a number that is no mode."""
    if mode == Mode.MODE_UNSPECIFIED:
        return None
    try:
        return PolicyMode(mode)
    except ValueError:
        known = ", ".join(f"{one.value} {one.name.lower()}" for one in PolicyMode)
        raise FeaturewatchError(f"mode {mode}", f"the modes are {known}", "choose one of them") from None


def limit_of(limit: int) -> int:
    """How many events a caller gets; raises FeaturewatchError."""
    if limit > LARGEST_LIMIT:
        raise FeaturewatchError(f"limit {limit}", f"it is at most {LARGEST_LIMIT}", "ask for a shorter time")
    return limit or DEFAULT_LIMIT


def problem_message(problem: Problem) -> PolicyProblem:
    return PolicyProblem(
        file=problem.file,
        line=problem.line,
        field=problem.field,
        value=problem.value,
        rule=problem.rule,
        remedy=problem.remedy,
    )


def _require(field: str, text: str, *, needed: bool) -> None:
    if needed and not text.strip():
        raise FeaturewatchError(
            f"{field} {text!r}",
            "the audit of changes says who and why",
            f"fill in {field}",
        )
    if len(text) > _LONGEST:
        raise FeaturewatchError(f"{field} of {len(text)} characters", f"it has at most {_LONGEST}", "shorten it")


def _peer(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The address, and of a client with a certificate its common name."""
    peer = context.peer() or ""
    # Clients on a Unix socket have no name of their own.
    if peer in ("", "unix:"):
        peer = "a client on the Unix socket"
    names = context.auth_context().get("x509_common_name", ())
    shown = ", ".join(name.decode(errors="replace") for name in names)
    return f"{peer} (certificate of {shown})" if shown else peer
