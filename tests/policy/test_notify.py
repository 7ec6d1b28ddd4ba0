"""Notifications: what every sequence of alerts keeps to, and single rules by example."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.policy.alert_facts import AlertFacts
from monitor.policy.notify import MOST_NAMED, Gathered, Notifier
from monitor.policy.schema.rule import Notify
from monitor.policy.vocabulary import Severity

SECOND = 1_000_000_000


def notify(**fields: object) -> Notify:
    return Notify.model_validate({"groupBy": ["tenant"], "wait": "5s", "interval": "20s", "repeat": "60s", **fields})


def facts(number: int, tenant: str = "acme", severity: Severity = Severity.LOW, rule: str = "R") -> AlertFacts:
    return AlertFacts(f"alert-{number}", 10 * number, rule, severity, tenant, "tiny", "", "tap-1", "gen")


Sent = list[tuple[int, Gathered]]


def deliver(notifier: Notifier, events: list[tuple[AlertFacts, int]], lateness: int = 0) -> Sent:
    """Adds alerts at their times and asks when the notifier said, or `lateness` later; flushes nothing."""
    sent: Sent = []
    wake: int | None = None
    for alert, moment in events:
        while wake is not None and wake + lateness <= moment:
            gathered, following = notifier.due(wake + lateness)
            sent += [(wake + lateness, one) for one in gathered]
            wake = following
        notifier.add(alert, moment)
        gathered, wake = notifier.due(moment)
        sent += [(moment, one) for one in gathered]
    while wake is not None:
        gathered, following = notifier.due(wake + lateness)
        sent += [(wake + lateness, one) for one in gathered]
        wake = following
    return sent


gaps = st.integers(0, 3 * SECOND) | st.sampled_from([0, 5, 20, 25, 60, 65, 200]).map(lambda s: s * SECOND)
tenants = st.sampled_from(["acme", "umbrella", "tyrell", ""])
severities = st.sampled_from(list(Severity))


@st.composite
def alert_sequences(draw: st.DrawFn) -> list[tuple[AlertFacts, int]]:
    events, now = [], 0
    for number in range(draw(st.integers(0, 40))):
        now += draw(gaps)
        rule = draw(st.sampled_from(["R", "S"]))
        events.append((facts(number, draw(tenants), draw(severities), rule), now))
    return events


settings_of_notify = st.builds(
    lambda wait, interval, repeat, by: notify(
        wait=f"{wait}s", interval=f"{interval}s", repeat=f"{repeat}s", groupBy=by
    ),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([[], ["tenant"], ["severity"], ["rule", "tenant"]]),
)
room = st.sampled_from([1, 2, 4096])


@settings(max_examples=300, deadline=None)
@given(settings_of_notify, alert_sequences(), room, st.sampled_from([0, 1, 7 * SECOND]))
def test_every_alert_is_in_exactly_one_notification(
    block: Notify, events: list[tuple[AlertFacts, int]], most_groups: int, lateness: int
) -> None:
    sent = deliver(Notifier(block, most_groups=most_groups), events, lateness)
    named = Counter(alert_id for _, gathered in sent for alert_id in gathered.alert_ids)
    assert named == Counter(alert.alert_id for alert, _ in events)
    assert all(gathered.new_alerts == len(gathered.alert_ids) <= gathered.alerts for _, gathered in sent)
    by_id = {alert.alert_id: alert for alert, _ in events}
    for _, gathered in sent:
        alerts = [by_id[alert_id] for alert_id in gathered.alert_ids]
        assert gathered.max_severity == max(alert.severity for alert in alerts)
        assert gathered.last_unix_nanos == alerts[0].time_unix_nanos
        assert gathered.first_unix_nanos == alerts[-1].time_unix_nanos
        if gathered.group or not block.group_by:
            assert {alert.values(block.group_by) for alert in alerts} == {tuple(gathered.group.values())}


@settings(max_examples=300, deadline=None)
@given(settings_of_notify, alert_sequences(), room, st.sampled_from([0, 1, 7 * SECOND]))
def test_a_group_waits_before_its_first_notification_and_between_two(
    block: Notify, events: list[tuple[AlertFacts, int]], most_groups: int, lateness: int
) -> None:
    sent = deliver(Notifier(block, most_groups=most_groups), events, lateness)
    moment_of = {alert.alert_id: moment for alert, moment in events}
    wait, interval = int(block.wait[:-1]) * SECOND, int(block.interval[:-1]) * SECOND
    by_group = defaultdict(list)
    for moment, gathered in sent:
        oldest = moment_of[gathered.alert_ids[-1]]
        assert moment >= oldest
        if gathered.alerts == gathered.new_alerts:
            assert moment >= oldest + wait, "the first since the group was opened"
        by_group[tuple(gathered.group.items())].append(moment)
    for moments in by_group.values():
        assert all(later - earlier >= interval for earlier, later in pairwise(moments))


@settings(max_examples=100, deadline=None)
@given(settings_of_notify, alert_sequences())
def test_nothing_waits_longer_than_it_must(block: Notify, events: list[tuple[AlertFacts, int]]) -> None:
    moment_of = {alert.alert_id: moment for alert, moment in events}
    longest = max(int(block.wait[:-1]), int(block.interval[:-1])) * SECOND
    for moment, gathered in deliver(Notifier(block), events):
        assert all(moment - moment_of[alert_id] <= longest for alert_id in gathered.alert_ids)


@settings(max_examples=100, deadline=None)
@given(settings_of_notify, alert_sequences(), room)
def test_what_waits_at_the_end_is_flushed_once(
    block: Notify, events: list[tuple[AlertFacts, int]], most_groups: int
) -> None:
    notifier = Notifier(block, most_groups=most_groups)
    for alert, moment in events:
        notifier.add(alert, moment)
    flushed = notifier.flush()
    assert sum(gathered.new_alerts for gathered in flushed) == len(events)
    assert notifier.flush() == []
    assert len(notifier) == 0
    assert notifier.due(10**15) == ([], None)


def test_a_burst_is_one_notification_then_one_an_interval() -> None:
    notifier = Notifier(notify())
    sent = deliver(notifier, [(facts(second), second * SECOND) for second in range(30)])
    assert [(moment // SECOND, gathered.new_alerts, gathered.alerts) for moment, gathered in sent] == [
        (5, 5, 5),
        (25, 20, 25),
        (45, 5, 30),
    ]


def test_an_alert_after_the_interval_is_sent_at_once() -> None:
    sent = deliver(Notifier(notify()), [(facts(0), 0), (facts(1), 40 * SECOND)])
    assert [(moment // SECOND, gathered.alerts) for moment, gathered in sent] == [(5, 1), (40, 2)]


def test_a_group_without_new_alerts_is_closed_and_opened_anew() -> None:
    sent = deliver(Notifier(notify()), [(facts(0), 0), (facts(1), 60 * SECOND)])
    assert [(moment // SECOND, gathered.alerts) for moment, gathered in sent] == [(5, 1), (65, 1)]


def test_a_group_is_not_closed_before_its_interval_is_over() -> None:
    block = notify(wait="1s", interval="20s", repeat="2s")
    sent = deliver(Notifier(block), [(facts(0), 0), (facts(1), 10 * SECOND)])
    assert [moment // SECOND for moment, _ in sent] == [1, 21]


def test_alerts_without_room_for_their_group_are_gathered_together() -> None:
    notifier = Notifier(notify(), most_groups=2)
    for number, tenant in enumerate("abcd"):
        notifier.add(facts(number, tenant), 0)
    gathered, _ = notifier.due(5 * SECOND)
    assert [(dict(one.group), one.new_alerts) for one in gathered] == [
        ({"tenant": "a"}, 1),
        ({"tenant": "b"}, 1),
        ({}, 2),
    ]
    assert notifier.crowded == 2


def test_closed_groups_are_forgotten() -> None:
    notifier = Notifier(notify())
    for number in range(100):
        notifier.add(facts(number, f"t{number}"), number * SECOND)
        notifier.due(number * SECOND)
    # 60 s after its alert a group is closed.
    assert len(notifier) == 60
    # The last five were sent at 104 s only.
    notifier.due(104 * SECOND)
    notifier.due(159 * SECOND)
    assert len(notifier) == 0


def test_a_clock_that_steps_back_sends_nothing_twice_and_loses_nothing() -> None:
    notifier = Notifier(notify())
    notifier.add(facts(0), 100 * SECOND)
    notifier.add(facts(1), 3 * SECOND)
    assert notifier.due(50 * SECOND) == ([], 105 * SECOND)
    (first,), _ = notifier.due(105 * SECOND)
    assert first.alert_ids == ("alert-1", "alert-0")
    assert notifier.due(106 * SECOND) == ([], None)


def test_at_most_a_hundred_alerts_are_named_and_all_are_counted() -> None:
    notifier = Notifier(notify())
    for number in range(250):
        notifier.add(facts(number), 0)
    (gathered,), _ = notifier.due(5 * SECOND)
    assert gathered.new_alerts == 250
    assert gathered.alert_ids == tuple(f"alert-{number}" for number in range(249, 249 - MOST_NAMED, -1))
