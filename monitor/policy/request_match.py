"""What policies ask of a single request when it begins: whether they judge it, and which exceptions hold for it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from monitor.policy.fit import fits_model
from monitor.policy.policy import Policy
from monitor.policy.schema.rule import ExceptionMatch, Rule, RuleException
from monitor.policy.vocabulary import Mode

_EVERYONE = "*"


@dataclass(frozen=True)
class RequestFacts:
    """What a request is.

    Attributes:
        tenant: whom it is for; empty when it names none.
        models: the names of its model, e.g. that under which it is served and its path.
        adapter: the LoRA adapter; empty for the model alone.
        day: on which it began, in UTC, as ISO 8601 writes it.
    """

    tenant: str = ""
    models: tuple[str, ...] = ()
    adapter: str = ""
    day: str = ""


def judges(policy: Policy, tenant: str, request_id: str) -> bool:
    """Whether `match.tenants` and `match.sample` let a policy judge a request, in every process the same.

    Args:
        policy: the policy.
        tenant: whom the request is for; empty when it names none.
        request_id: the engine's own id; what clients choose must not decide about `match.sample`.
    """
    match = policy.document.spec.match
    return fits_name(match.tenants, tenant) and in_sample(policy.name, request_id, match.sample)


def in_sample(policy: str, request_id: str, share: float) -> bool:
    """Whether a request is among the `share` of all requests that a policy judges.

    Decided by the first 8 bytes of SHA-256 over the policy's name, a zero byte and the request's id: policies choose
    independently of each other, and every process chooses the same.
    """
    digest = hashlib.sha256(f"{policy}\0{request_id}".encode()).digest()
    # Exact: the product is a float whose exponent has changed, and Python compares it with an integer of any size.
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def fits_name(patterns: Collection[str], name: str) -> bool:
    """Whether a shell pattern fits a tenant or an adapter; case counts. The empty name, of a request that names none,
    fits ``*`` and no other pattern."""
    if not name:
        return _EVERYONE in patterns
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def holding_exception(rule: Rule, request: RequestFacts) -> str:
    """Name of the first of a rule's exceptions that holds for a request; empty when none does."""
    for exception in rule.exceptions:
        if request.day < exception.expires and _is_for(exception.match, request):
            return exception.name
    return ""


def mode_under(exception: str, mode: Mode) -> Mode:
    """The mode of an alert of a policy in `mode`: what an exception holds back is only recorded."""
    return min(mode, Mode.SHADOW) if exception else mode


def expired_exceptions(policy: Policy, day: str) -> Iterator[tuple[Rule, RuleException]]:
    """Exceptions that hold no more on a day (ISO 8601, UTC), with their rules."""
    for rule in policy.document.spec.rules:
        for exception in rule.exceptions:
            if day >= exception.expires:
                yield rule, exception


def _is_for(match: ExceptionMatch, request: RequestFacts) -> bool:
    """All stated fields fit."""
    return (
        (match.tenants is None or fits_name(match.tenants, request.tenant))
        and (match.models is None or _fits_any_model(match.models, request.models))
        and (match.adapters is None or fits_name(match.adapters, request.adapter))
    )


def _fits_any_model(patterns: Collection[str], models: Iterable[str]) -> bool:
    return any(fits_model(patterns, model) for model in models)
