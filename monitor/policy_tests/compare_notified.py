"""Compares the notifications that a test expects with those that the policy would send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from monitor.policy_tests.failure import Failure
from monitor.policy_tests.notified import ObservedNotification
from monitor.policy_tests.observed import Observation
from monitor.policy_tests.parse import PolicyTests
from monitor.policy_tests.schema import Case
from monitor.policy_tests.times import parse_time, time_text


def notification_failures(tests: PolicyTests, path: str, case: Case, seen: Observation) -> Iterator[Failure]:
    """Nothing where the test does not look at them; `path` is the test's."""
    left = list(seen.notifications or ())
    for index, expected in enumerate(case.expect_notifications or ()):
        here = f"{path}.expectNotifications[{index}]"
        time, group = parse_time(expected.time), expected.group
        match = next((one for one in left if (one.time_nanos, one.gathered.group) == (time, group)), None)
        if match is None:
            others = [one for one in left if one.gathered.group == group]
            instead = f"one is sent at {time_text(others[0].time_nanos)}" if others else "there is none"
            text = f"expected a notification{_of(group)} at {time_text(time)}; {instead}"
            yield Failure(tests.line(f"{here}.time"), text, None, ())
            continue
        left.remove(match)
        count = match.gathered.new_alerts
        if count != expected.alerts:
            text = f"{_told(match)} as expected, but tells of {count} alerts, expected {expected.alerts}"
            yield Failure(tests.line(f"{here}.alerts"), text, None, ())
    for one in left:
        text = f"{_told(one)} and tells of {one.gathered.new_alerts} alerts, which is not expected"
        yield Failure(tests.line(f"{path}.expectNotifications"), text, None, ())


def _told(one: ObservedNotification) -> str:
    return f"a notification{_of(one.gathered.group)} is sent at {time_text(one.time_nanos)}"


def _of(group: Mapping[str, str]) -> str:
    return (
        f" of {', '.join(f'{name} {value}' if value else f'no {name}' for name, value in group.items())}"
        if group
        else ""
    )
