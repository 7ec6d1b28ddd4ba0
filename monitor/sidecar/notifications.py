"""Gathers the alerts that are sent into notifications, as each policy's `notify` says, and sends these in time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from monitor.policy import Policy
from monitor.policy.alert_facts import AlertFacts
from monitor.policy.notify import Gathered, Notifier
from monitor.policy.schema.rule import Notify
from monitor.sidecar.alerting import stable_id
from monitor.v1.alerts_pb2 import Notification, Severity

_log = logging.getLogger(__name__)


@dataclass
class _Desk:
    """The groups of one policy's `notify`; `policy`: the edition that the latest alert came from."""

    policy: Policy
    notifier: Notifier


class Notifications:
    """Used on the event loop; nothing here waits.

    A reload that changes a policy's `notify` opens new groups; what waits in the old ones is sent when it is due.

    Attributes:
        sent: notifications by policy.
    """

    def __init__(
        self,
        send: Callable[[Notification], None],
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`clock` gives nanoseconds that never go back, `wall_clock` those since the Unix epoch."""
        self.sent: Counter[str] = Counter()
        self._send = send
        self._clock = clock
        self._wall_clock = wall_clock
        self._desks: dict[tuple[str, Notify], _Desk] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0

    def add(self, policy: Policy, alert: AlertFacts) -> None:
        """Takes an alert of a policy that is sent by itself; does nothing for a policy without `notify`.

        Call `send_due` when all alerts are in that came together: they are told together.
        """
        notify = policy.document.spec.notify
        if notify is None:
            return
        key = policy.name, notify
        if key not in self._desks:
            self._desks[key] = _Desk(policy, Notifier(notify))
        desk = self._desks[key]
        desk.policy = policy
        crowded = desk.notifier.crowded
        desk.notifier.add(alert, self._clock())
        if not crowded and desk.notifier.crowded:
            _log.warning("policy %s: too many groups of notify are open, further ones are told together", policy.name)

    def send_due(self) -> None:
        """Sends what is due now and sets a timer for what comes next."""
        wake = min((due for desk in self._desks.values() if (due := self._send_due_of(desk)) is not None), default=None)
        # Those without an open group: of policies or texts that are gone, or where nothing came for long.
        self._desks = {key: desk for key, desk in self._desks.items() if len(desk.notifier)}
        if wake is None or (self._timer is not None and self._timer_due == wake):
            return
        self._cancel()
        self._timer_due = wake
        seconds = max(wake - self._clock(), 0) / 1e9
        self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timer)

    def close(self) -> None:
        """Sends what waits, however soon."""
        self._cancel()
        for desk in self._desks.values():
            for gathered in desk.notifier.flush():
                self._send_one(desk.policy, gathered)
        self._desks.clear()

    def _on_timer(self) -> None:
        self._timer = None
        self.send_due()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send_due_of(self, desk: _Desk) -> int | None:
        gathered, due = desk.notifier.due(self._clock())
        for one in gathered:
            self._send_one(desk.policy, one)
        return due

    def _send_one(self, policy: Policy, gathered: Gathered) -> None:
        self.sent[policy.name] += 1
        self._send(notification_of(policy, gathered, self._wall_clock()))


def notification_of(policy: Policy, gathered: Gathered, time_unix_nanos: int) -> Notification:
    """Its id is made of the newest alert, which is in no other notification, and of how many there are."""
    metadata = policy.document.metadata
    return Notification(
        notification_id=stable_id(
            "notification", policy.name, gathered.alert_ids[0], gathered.new_alerts, gathered.alerts
        ),
        time_unix_nanos=time_unix_nanos,
        policy=policy.name,
        group=gathered.group,
        new_alerts=gathered.new_alerts,
        alerts=gathered.alerts,
        max_severity=Severity.ValueType(int(gathered.max_severity)),
        first_unix_nanos=gathered.first_unix_nanos,
        last_unix_nanos=gathered.last_unix_nanos,
        alert_ids=gathered.alert_ids,
        runbook=metadata.runbook or "",
        owner=metadata.owner or "",
    )
