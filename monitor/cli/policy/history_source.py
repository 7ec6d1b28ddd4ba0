"""Where `featurewatch policy history` reads: a running sidecar, or the store's file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from monitor.cli.policy.remote import SECONDS, policy_service
from monitor.errors import FeaturewatchError
from monitor.policy.nearest import nearest
from monitor.rpc import ClientTls

if TYPE_CHECKING:
    from monitor.audit import AuditStore
    from monitor.v1.policies_pb2 import PolicyEvent
    from monitor.v1.policies_pb2_grpc import PolicyServiceStub

#: Events that are searched for known names; a sidecar gives no more at once.
_MOST: Final = 10_000


class HistorySource(Protocol):
    def events(self, name: str, after: int, limit: int) -> list[PolicyEvent]:
        """The newest after a time, oldest first; of all policies where `name` is empty."""
        ...

    def loaded(self) -> list[str]:
        """Names of policies that are known without any event."""
        ...


@contextmanager
def open_history(store: Path | None, sidecar: str | None, tls: ClientTls) -> Iterator[HistorySource]:
    """The store if one is named, else the sidecar. `tls` is what the options say."""
    if store is not None and sidecar is not None:
        raise FeaturewatchError("--sidecar and --store", "only one of them can be read", "leave one of them out")
    if store is None:
        with policy_service(sidecar, tls) as service:
            yield _FromSidecar(service)
        return
    from monitor.audit import AuditStore

    opened = AuditStore(store, read_only=True)
    try:
        yield _FromStore(opened)
    finally:
        opened.close()


def must_know(source: HistorySource, name: str) -> None:
    """Raises FeaturewatchError with the nearest name when nothing was ever told of such a policy."""
    loaded = source.loaded()
    if name in loaded or source.events(name, 0, 1):
        return
    told = [event.policy for event in source.events("", 0, _MOST) if event.policy]
    known = sorted({*loaded, *told})
    near = nearest(name, known)
    raise FeaturewatchError(
        f"policy {name!r}",
        f"the history is of {', '.join(known) or 'no policy'}",
        f"did you mean {near!r}" if near else "name one of them, or leave the name out",
    )


@dataclass(frozen=True)
class _FromSidecar:
    service: PolicyServiceStub

    def events(self, name: str, after: int, limit: int) -> list[PolicyEvent]:
        from monitor.v1.policies_pb2 import ListPolicyEventsRequest

        request = ListPolicyEventsRequest(policy=name, since_unix_nanos=after, limit=limit)
        return [*self.service.ListPolicyEvents(request, timeout=SECONDS).events]

    def loaded(self) -> list[str]:
        from monitor.v1.policies_pb2 import ListPoliciesRequest

        return [policy.name for policy in self.service.ListPolicies(ListPoliciesRequest(), timeout=SECONDS).policies]


@dataclass(frozen=True)
class _FromStore:
    store: AuditStore

    def events(self, name: str, after: int, limit: int) -> list[PolicyEvent]:
        return self.store.policy_events(policy=name, since_unix_nanos=after, limit=limit)

    def loaded(self) -> list[str]:
        return []
