"""Which policies judge a request, decided when it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.policy import Mode, RequestFacts, holding_exception, judges
from monitor.sidecar.plan import TapPlan, model_names
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import RequestBegin

# Combinations of tenant, adapter and day that are kept, and of what follows from them.
_KEPT: Final = 1024


def utc_day(unix_nanos: int) -> str:
    """As ISO 8601 writes it, e.g. 2027-01-31."""
    return datetime.fromtimestamp(unix_nanos // 10**9, UTC).date().isoformat()


@dataclass(frozen=True, slots=True, eq=False)
class Judging:
    """What holds for one request until its end.

    Attributes:
        policies: names of those that judge it.
        hidden_d: bool [detectors], those of the other policies; None where there are none.
        exceptions: by policy and rule the name of the exception under which its firings are recorded and not sent.
    """

    policies: frozenset[str] = frozenset()
    hidden_d: npt.NDArray[np.bool_] | None = None
    exceptions: Mapping[tuple[str, str], str] = field(default_factory=lambda: MappingProxyType({}))


class JudgingTable:
    """Decides it for the requests of one tap; requests for which it is the same share one `Judging`."""

    def __init__(self, plan: TapPlan, engine: EngineInfo, clock: Callable[[], int]) -> None:
        """`clock` gives the wall clock in nanoseconds since the Unix epoch."""
        self._plan = plan
        self._models = model_names(engine)
        self._clock = clock
        rules = [(name, rule) for name, one in plan.served.items() for rule in one.policy.document.spec.rules]
        self._excepting = [(policy, rule) for policy, rule in rules if rule.exceptions]
        self._exceptions_for = lru_cache(_KEPT)(self._find_exceptions)
        self._shared = lru_cache(_KEPT)(self._make)

    def of(self, begin: RequestBegin) -> Judging:
        """What holds for a request that begins now."""
        policies = frozenset(
            name
            for name, served in self._plan.served.items()
            if served.mode is not Mode.OFF and judges(served.policy, begin.tenant, begin.request_id)
        )
        today = utc_day(self._clock()) if self._excepting else ""
        exceptions = self._exceptions_for(begin.tenant, begin.adapter, today) if self._excepting else ()
        return self._shared(policies, exceptions)

    def _find_exceptions(self, tenant: str, adapter: str, day: str) -> tuple[tuple[tuple[str, str], str], ...]:
        request = RequestFacts(tenant=tenant, models=self._models, adapter=adapter, day=day)
        found = [((policy, rule.id), holding_exception(rule, request)) for policy, rule in self._excepting]
        return tuple((rule, exception) for rule, exception in found if exception)

    def _make(self, policies: frozenset[str], exceptions: tuple[tuple[tuple[str, str], str], ...]) -> Judging:
        hidden_d = np.array([one.policy not in policies for one in self._plan.policies.detectors], np.bool_)
        return Judging(policies, hidden_d if hidden_d.any() else None, MappingProxyType(dict(exceptions)))
