"""Test files tell notifications at the times at which the sidecar sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from correlated_world import correlated_policy
from hypothesis import given
from hypothesis import strategies as st
from timer_kit import SECOND, Timers

from monitor.policy import Policy, Severity, parse_policy
from monitor.policy.alert_facts import AlertFacts
from monitor.policy_tests.notified import notifications_of
from monitor.sidecar.notifications import Notifications
from monitor.v1.alerts_pb2 import Notification

Told = tuple[int, dict[str, str], list[str]]


@contextmanager
def loop() -> Iterator[Timers]:
    timers = Timers()
    with patch.object(asyncio, "get_running_loop", lambda: timers):
        yield timers


def sent_by_sidecar(policy: Policy, alerts: list[tuple[list[AlertFacts], int]]) -> list[Told]:
    sent: list[Told] = []
    with loop() as timers:

        def send(one: Notification) -> None:
            sent.append((timers.now, dict(one.group), list(one.alert_ids)))

        notifications = Notifications(send, clock=lambda: timers.now, wall_clock=lambda: timers.now)
        for together, time in alerts:
            timers.pass_nanos(time - timers.now)
            for facts in together:
                notifications.add(policy, facts)
            notifications.send_due()
        timers.pass_nanos(10_000 * SECOND)
    return sent


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.lists(st.sampled_from(["acme", "umbrella"]), min_size=1, max_size=3)),
        max_size=12,
    ),
    st.sampled_from([("10s", "60s", "100s"), ("30s", "30s", "1s"), ("1s", "300s", "60s")]),
)
def test_they_are_those_of_the_sidecar(alerts: list[tuple[int, list[str]]], spans: tuple[str, str, str]) -> None:
    wait, interval, repeat = spans
    notify_text = f"{{groupBy: [tenant], wait: {wait}, interval: {interval}, repeat: {repeat}}}"
    policy = parse_policy(correlated_policy(notify=notify_text))
    notify = policy.document.spec.notify
    assert notify is not None
    # Each by a fraction of its own: which comes first when an alert and a timer are due at once is nobody's promise.
    facts = [
        (
            [
                AlertFacts(f"{k}/{j}", 0, "R", Severity.LOW, tenant, "", "", "", str(k))
                for j, tenant in enumerate(tenants)
            ],
            time * SECOND + k,
        )
        for k, (time, tenants) in enumerate(sorted(alerts))
    ]
    found = notifications_of(notify, facts)
    told = [(one.time_nanos, dict(one.gathered.group), list(one.gathered.alert_ids)) for one in found]
    assert told == sent_by_sidecar(policy, facts)
