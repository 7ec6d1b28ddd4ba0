"""Tells the log of exceptions that hold no more."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from monitor.policy import Policy, expired_exceptions
from monitor.sidecar.judging import utc_day

_log = logging.getLogger(__name__)


def warn_of_expired(policies: Iterable[Policy], now_unix_nanos: int) -> None:
    """One line for each exception that has expired; its rule's alerts are sent again."""
    day = utc_day(now_unix_nanos)
    for policy in policies:
        for rule, exception in expired_exceptions(policy, day):
            _log.warning(
                "policy %s: exception %s of rule %s holds no more since %s; ask %s, then renew or remove it",
                policy.name,
                exception.name,
                rule.id,
                exception.expires,
                exception.owner,
            )
