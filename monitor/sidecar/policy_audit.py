"""Who changed which policy or mode, when and why: written to the audit store, and to the log."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from monitor.audit import AuditStore, AuditWriter
from monitor.policy import Mode as PolicyMode
from monitor.policy import Policy
from monitor.rpc import name_of
from monitor.v1.alerts_pb2 import Mode
from monitor.v1.policies_pb2 import PolicyEvent

_log = logging.getLogger(__name__)

DEFAULT_LIMIT: Final = 1000
LARGEST_LIMIT: Final = 10_000


@dataclass(frozen=True)
class Cause:
    """Who asks for a change and why; `peer` is where the call came from, empty where there was none."""

    actor: str
    reason: str = ""
    peer: str = ""


class PolicyAudit:
    def __init__(self, store: AuditStore, writer: AuditWriter, clock: Callable[[], int] = time.time_ns) -> None:
        """`clock` gives the wall clock in nanoseconds since the Unix epoch."""
        self._store = store
        self._writer = writer
        self._clock = clock

    def event(
        self,
        kind: PolicyEvent.Kind.ValueType,
        cause: Cause,
        *,
        old: Policy | None = None,
        new: Policy | None = None,
        old_mode: PolicyMode | None = None,
        new_mode: PolicyMode | None = None,
        policy: str = "",
        detail: str = "",
    ) -> PolicyEvent:
        """An event that happens now; `policy` is needed where neither `old` nor `new` is given."""
        one = new or old
        details = [detail, f"called from {cause.peer}" if cause.peer else ""]
        fields: dict[str, Any] = {}
        if old is not None:
            fields |= {"old_revision": old.revision, "old_sha256": old.sha256}
        if new is not None:
            fields |= {"new_revision": new.revision, "new_sha256": new.sha256}
        return PolicyEvent(
            event_id=str(uuid.uuid4()),
            time_unix_nanos=self._clock(),
            kind=kind,
            policy=one.name if one is not None else policy,
            actor=cause.actor,
            reason=cause.reason,
            old_mode=Mode.ValueType(int(old_mode or 0)),
            new_mode=Mode.ValueType(int(new_mode or 0)),
            detail="; ".join(text for text in details if text),
            **fields,
        )

    def write(self, events: Sequence[PolicyEvent]) -> None:
        """Hands events to the store's thread; never waits."""
        for event in events:
            if event.kind == PolicyEvent.Kind.KIND_REFUSED:
                # Whoever refuses tells each problem by itself.
                continue
            level = logging.WARNING if event.kind == PolicyEvent.Kind.KIND_STALE else logging.INFO
            _log.log(level, "%s", _line(event))
        if events:
            self._writer.submit_policy_events(events)

    def find(self, policy: str, since_unix_nanos: int, limit: int) -> list[PolicyEvent]:
        """The newest events, oldest first; waits for those that are being written. Not on the event loop. Raises
        FeaturewatchError."""
        self._writer.flush()
        return self._store.policy_events(policy=policy, since_unix_nanos=since_unix_nanos, limit=limit)


def _from_to(values: Iterable[str]) -> str:
    return " to ".join(dict.fromkeys(values))


def _line(event: PolicyEvent) -> str:
    what = name_of(PolicyEvent.Kind, event.kind).replace("_", " ")
    revisions = _from_to(str(revision) for revision in (event.old_revision, event.new_revision) if revision)
    modes = _from_to(name_of(Mode, mode) for mode in (event.old_mode, event.new_mode) if mode)
    parts = [f"revision {revisions}" if revisions else "", f"mode {modes}" if modes else "", event.detail]
    told = ", ".join(part for part in parts if part)
    why = f" ({event.reason})" if event.reason else ""
    return f"policy {event.policy or 'files'}: {what} by {event.actor}{why}: {told}"
