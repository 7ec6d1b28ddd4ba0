"""When the sidecar sends notifications: timers, reloads, what is forgotten."""

from __future__ import annotations

import asyncio

import pytest
from correlated_world import correlated_policy
from timer_kit import SECOND, Timers

from monitor.policy import Policy, Severity, parse_policy
from monitor.policy import notify as notify_module
from monitor.policy.alert_facts import AlertFacts
from monitor.sidecar.notifications import Notifications
from monitor.v1.alerts_pb2 import Notification


class Session:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timers = Timers()
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self.timers)
        self.sent: list[tuple[int, Notification]] = []
        self.notifications = Notifications(
            lambda notification: self.sent.append((self.timers.now // SECOND, notification)),
            clock=lambda: self.timers.now,
            wall_clock=lambda: 10**18 + self.timers.now,
        )
        self._count = 0

    def add(self, policy: Policy, tenant: str = "acme") -> None:
        """One of those that come together; `send_due` follows the last."""
        self._count += 1
        facts = AlertFacts(f"alert-{self._count}", self._count, "R", Severity.HIGH, tenant, "tiny", "", "tap", "gen")
        self.notifications.add(policy, facts)

    def alert(self, policy: Policy, tenant: str = "acme") -> None:
        """One alone."""
        self.add(policy, tenant)
        self.notifications.send_due()

    def alerts(self, policy: Policy, count: int) -> None:
        """Some that came together."""
        for _ in range(count):
            self.add(policy)
        self.notifications.send_due()

    def told(self) -> list[tuple[int, dict[str, str], int]]:
        return [(second, dict(one.group), one.new_alerts) for second, one in self.sent]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    return Session(monkeypatch)


def policy(notify: str, name: str = "loud", revision: int = 2) -> Policy:
    text = correlated_policy(notify=notify).replace("name: loud", f"name: {name}")
    return parse_policy(text.replace("revision: 2", f"revision: {revision}"))


def test_each_group_is_told_in_its_time_with_one_timer(session: Session) -> None:
    slow, fast = policy("{wait: 10s, interval: 30s}"), policy("{groupBy: [tenant], wait: 2s, interval: 5s}", "fast")
    session.alert(slow)
    session.alert(fast)
    session.alert(fast, "umbrella")
    assert len(session.timers.live()) == 1
    session.timers.pass_seconds(3)
    session.alert(fast)
    session.timers.pass_seconds(60)
    assert session.told() == [
        (2, {"tenant": "acme"}, 1),
        (2, {"tenant": "umbrella"}, 1),
        (7, {"tenant": "acme"}, 1),
        (10, {}, 1),
    ]
    assert session.timers.live() == []
    assert session.notifications.sent == {"fast": 3, "loud": 1}


def test_what_another_policy_tells_for_the_first_time_does_not_part_what_came_together(session: Session) -> None:
    late, new = policy("{wait: 10s, interval: 30s}"), policy("{wait: 10s, interval: 30s}", "new")
    session.alert(late)
    session.timers.pass_seconds(60)
    for one in (late, new, late):
        session.add(one)
    session.notifications.send_due()
    assert session.told() == [(10, {}, 1), (60, {}, 2)]


def test_alerts_that_came_together_are_told_together(session: Session) -> None:
    late = policy("{wait: 10s, interval: 30s}")
    session.alert(late)
    session.timers.pass_seconds(60)
    session.alerts(late, 2)
    assert session.told() == [(10, {}, 1), (60, {}, 2)]


def test_a_timer_that_goes_off_early_sends_nothing_and_is_set_again(session: Session) -> None:
    session.alert(policy("{wait: 10s}"))
    ((due, call, _),) = session.timers.live()
    session.timers.set.clear()
    session.timers.now = due - 1
    call()
    assert session.sent == []
    assert [entry[0] for entry in session.timers.live()] == [due]


def test_a_notification_says_what_its_policy_says_of_itself(session: Session) -> None:
    session.alert(policy("{wait: 1s}"))
    session.timers.pass_seconds(1)
    ((_, told),) = session.sent
    assert (told.policy, told.owner, told.runbook) == ("loud", "oncall", "https://example.org/loud")
    assert told.time_unix_nanos == 10**18 + SECOND
    assert (told.first_unix_nanos, told.last_unix_nanos, list(told.alert_ids)) == (1, 1, ["alert-1"])


def test_every_notification_has_an_id_of_its_own(session: Session) -> None:
    for tenant in ("acme", "umbrella", "acme", "acme"):
        session.alert(policy("{groupBy: [tenant], wait: 1s, interval: 2s}"), tenant)
        session.timers.pass_seconds(2)
    assert len({told.notification_id for _, told in session.sent}) == len(session.sent) == 4


def test_a_reload_that_leaves_notify_goes_on_and_one_that_changes_it_opens_new_groups(session: Session) -> None:
    session.alert(policy("{wait: 10s}"))
    session.alert(policy("{wait: 10s}", revision=3))
    session.alert(policy("{wait: 20s}", revision=4))
    session.timers.pass_seconds(30)
    assert session.told() == [(10, {}, 2), (20, {}, 1)]


def test_groups_of_policies_that_are_gone_are_forgotten(session: Session) -> None:
    for number in range(1, 50):
        session.alert(policy(f"{{wait: {number}s, interval: 1s, repeat: 1s}}"))
        session.timers.pass_seconds(100)
        assert len(session.notifications._desks) <= 2
    assert len(session.sent) == 49


def test_a_policy_without_notify_notifies_nobody(session: Session) -> None:
    session.alert(policy(""))
    assert session.timers.live() == []
    session.notifications.close()
    assert session.sent == []


def test_closing_sends_what_waits_and_stops_the_timer(session: Session) -> None:
    session.alert(policy("{wait: 10s}"))
    session.notifications.close()
    assert session.told() == [(0, {}, 1)]
    assert session.timers.live() == []


def test_groups_without_room_are_told_together_and_the_log_says_so_once(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify_module.Notifier.__init__, "__kwdefaults__", {"most_groups": 1})
    for tenant in ("acme", "umbrella", "tyrell"):
        session.alert(policy("{groupBy: [tenant], wait: 1s}"), tenant)
    session.timers.pass_seconds(1)
    assert session.told() == [(1, {"tenant": "acme"}, 1), (1, {}, 2)]
    assert caplog.text.count("too many groups of notify are open") == 1
