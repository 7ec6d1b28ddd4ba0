"""Notifications: alerts of a policy gathered group by group, so that a burst of them is one message to a person.

`wait` and `interval` are Alertmanager's group_wait and group_interval (prometheus.io, "Alertmanager configuration",
route). Unlike there an alert is an event that never resolves: nothing is sent again, and `repeat` is the time without
new alerts after which a group is closed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from monitor.policy.alert_facts import AlertFacts
from monitor.policy.schema.fields import seconds
from monitor.policy.schema.rule import Notify
from monitor.policy.vocabulary import Severity

MOST_GROUPS: Final = 4096
#: Alerts that a notification names.
MOST_NAMED: Final = 100

_SECOND: Final = 1_000_000_000

# The group of the alerts for whose own group there is no room.
_Key = tuple[str, ...] | None
_OTHERS: Final = None


@dataclass(frozen=True)
class Gathered:
    """What one notification says.

    Attributes:
        group: value of each field of `groupBy`; empty for the alerts of groups that found no room.
        new_alerts: since the group's last notification; an alert is in exactly one of them.
        alerts: since the group was opened.
        max_severity, first_unix_nanos, last_unix_nanos: of the new alerts, times by their wall clock.
        alert_ids: of the new alerts, newest first, the newest `MOST_NAMED`.
    """

    group: Mapping[str, str]
    new_alerts: int
    alerts: int
    max_severity: Severity
    first_unix_nanos: int
    last_unix_nanos: int
    alert_ids: tuple[str, ...]


class Notifier:
    """The groups of one policy. Times are nanoseconds of any clock; one before an earlier one counts as that one.

    Attributes:
        crowded: alerts that went into the group of the others, because `most_groups` were open.
    """

    def __init__(self, notify: Notify, *, most_groups: int = MOST_GROUPS) -> None:
        self.crowded = 0
        self._by = notify.group_by
        self._wait = seconds(notify.wait) * _SECOND
        self._interval = seconds(notify.interval) * _SECOND
        self._repeat = seconds(notify.repeat) * _SECOND
        self._most_groups = most_groups
        # The group with the newest alert is the last.
        self._groups: OrderedDict[_Key, _Group] = OrderedDict()
        # One entry of each group with new alerts: from when on they may be sent, a number that breaks ties, the group.
        self._due: list[tuple[int, int, _Key]] = []
        self._pushed = 0
        self._now = 0

    def __len__(self) -> int:
        """Open groups."""
        return len(self._groups)

    def add(self, alert: AlertFacts, now_nanos: int) -> None:
        """Puts an alert into its group."""
        self._advance(now_nanos)
        key: _Key = alert.values(self._by)
        group = self._open_group(key)
        if group is None and len(self._groups) >= self._most_groups:
            key = _OTHERS
            group = self._open_group(key)
            self.crowded += 1
        if group is None:
            group = self._groups[key] = _Group(not_before=self._now + self._wait)
        self._groups.move_to_end(key)
        if not group.new_alerts:
            self._pushed += 1
            heappush(self._due, (group.not_before, self._pushed, key))
        group.add(alert, self._now)

    def due(self, now_nanos: int) -> tuple[list[Gathered], int | None]:
        """What is to be sent now, and when to ask again; None: not before the next alert."""
        self._advance(now_nanos)
        sent = []
        while self._due and self._due[0][0] <= self._now:
            sent.append(self._take())
        self._close_old()
        return sent, self._due[0][0] if self._due else None

    def flush(self) -> list[Gathered]:
        """What waits, however soon; afterwards no group is open."""
        sent = []
        while self._due:
            sent.append(self._take())
        self._groups.clear()
        return sent

    def _advance(self, now_nanos: int) -> None:
        self._now = max(self._now, now_nanos)
        self._close_old()

    def _close_old(self) -> None:
        """From the least recent on: one that is not yet to be closed may hold up others, which are then just kept."""
        while self._groups and self._is_over(next(iter(self._groups.values()))):
            self._groups.popitem(last=False)

    def _open_group(self, key: _Key) -> _Group | None:
        group = self._groups.get(key)
        if group is not None and self._is_over(group):
            del self._groups[key]
            return None
        return group

    def _is_over(self, group: _Group) -> bool:
        # Not before the interval has passed: under the same key the next notification may not come sooner.
        return not group.new_alerts and self._now >= max(group.latest + self._repeat, group.not_before)

    def _take(self) -> Gathered:
        _, _, key = heappop(self._due)
        group = self._groups[key]
        gathered = Gathered(
            group={} if key is None else dict(zip(self._by, key, strict=True)),
            new_alerts=group.new_alerts,
            alerts=group.alerts,
            max_severity=group.max_severity,
            first_unix_nanos=group.first_unix_nanos,
            last_unix_nanos=group.last_unix_nanos,
            alert_ids=tuple(group.ids),
        )
        group.sent(not_before=self._now + self._interval)
        return gathered


@dataclass(slots=True)
class _Group:
    """`not_before`: when its next notification may be sent; `latest`: when its newest alert came."""

    not_before: int
    latest: int = 0
    alerts: int = 0
    new_alerts: int = 0
    max_severity: Severity = Severity.INFORMATIONAL
    first_unix_nanos: int = 0
    last_unix_nanos: int = 0
    ids: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_NAMED))

    def add(self, alert: AlertFacts, now: int) -> None:
        if not self.new_alerts:
            self.max_severity, self.first_unix_nanos = alert.severity, alert.time_unix_nanos
            self.last_unix_nanos = alert.time_unix_nanos
        self.latest = now
        self.alerts += 1
        self.new_alerts += 1
        self.max_severity = max(self.max_severity, alert.severity)
        self.first_unix_nanos = min(self.first_unix_nanos, alert.time_unix_nanos)
        self.last_unix_nanos = max(self.last_unix_nanos, alert.time_unix_nanos)
        self.ids.appendleft(alert.alert_id)

    def sent(self, *, not_before: int) -> None:
        self.not_before = not_before
        self.new_alerts = 0
        self.ids.clear()
