"""The notifications that a policy's alerts become."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from monitor.policy.alert_facts import AlertFacts
from monitor.policy.notify import Gathered, Notifier
from monitor.policy.schema.rule import Notify


@dataclass(frozen=True)
class ObservedNotification:
    """`time_nanos`: when it is sent, from the start of the test on."""

    time_nanos: int
    gathered: Gathered


def notifications_of(notify: Notify, alerts: Iterable[tuple[Sequence[AlertFacts], int]]) -> list[ObservedNotification]:
    """In order of time, up to the last that anything waits for.

    Args:
        notify: of the policy.
        alerts: in order of time what is sent: alerts that come together, and when, in nanoseconds.
    """
    notifier, sent, due = Notifier(notify), list[ObservedNotification](), None

    def send(now: int) -> int | None:
        gathered, then = notifier.due(now)
        sent.extend(ObservedNotification(now, one) for one in gathered)
        return then

    for together, now in alerts:
        # As in the sidecar: a timer sends what is due, and alerts that come at that very moment are still told of.
        while due is not None and due < now:
            due = send(due)
        for facts in together:
            notifier.add(facts, now)
        due = send(now)
    while due is not None:
        due = send(due)
    return sent
