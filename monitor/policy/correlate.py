"""Correlations: rules over the firings of several requests, group by group, within a time span.

The kinds are those of Sigma's correlation rules (sigmahq.io, "Sigma Correlation Rules Specification"): `count` is its
event_count, `distinct` its value_count, `ordered` its temporal_ordered. Memory is bounded, and what is kept of a group
decides exactly as all of its firings would.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Protocol

from monitor.policy.alert_facts import AlertFacts
from monitor.policy.schema.rule import Correlation

MOST_GROUPS: Final = 4096
#: Firings that one correlation keeps, of all groups together: more than the largest `atLeast`.
MOST_FIRINGS: Final = 131_072
#: Alerts that a correlation names when it fires.
MOST_NAMED: Final = 100

_SECOND: Final = 1_000_000_000


class Correlator:
    """The state of one correlation.

    It fires at a firing that completes its condition within the time span up to that firing, and again only after the
    condition had ceased to hold: not once more for each further firing of a burst.

    Attributes:
        evicted: groups that made room for others while their firings still counted.
    """

    def __init__(
        self, correlation: Correlation, *, most_groups: int = MOST_GROUPS, most_firings: int = MOST_FIRINGS
    ) -> None:
        self.evicted = 0
        self._correlation = correlation
        self._within = correlation.within_seconds * _SECOND
        self._most_groups = most_groups
        self._most_firings = most_firings
        # The group that fired last is the last.
        self._groups: OrderedDict[tuple[str, ...], _Group] = OrderedDict()
        self._firings = 0
        self._now = 0

    def __len__(self) -> int:
        """Groups whose firings are kept."""
        return len(self._groups)

    def observe(self, alert: AlertFacts, now_nanos: int) -> tuple[str, ...]:
        """Takes an alert of any rule.

        Args:
            now_nanos: of any clock. A time before an earlier one counts as that one: time never goes back.

        Returns:
            When the correlation fires, ids of the alerts that it is made of, oldest first, the newest `MOST_NAMED`;
            else nothing.
        """
        since = self.forget(now_nanos)
        if alert.rule not in self._correlation.rules:
            return ()
        key = alert.values(self._correlation.group_by)
        group = self._groups.pop(key, None) or _Group(_window(self._correlation))
        self._groups[key] = group
        before = len(group.window)
        group.window.trim(since)
        held = group.window.holds
        group.window.add(alert, self._now)
        group.latest = self._now
        self._firings += len(group.window) - before
        self._make_room()
        return group.window.alert_ids()[-MOST_NAMED:] if group.window.holds and not held else ()

    def forget(self, now_nanos: int) -> int:
        """Drops groups whose firings are all too old to count; returns the time from which on they count."""
        self._now = max(self._now, now_nanos)
        since = self._now - self._within
        while self._groups and next(iter(self._groups.values())).latest < since:
            self._drop_oldest()
        return since

    def _make_room(self) -> None:
        while len(self._groups) > 1 and (len(self._groups) > self._most_groups or self._firings > self._most_firings):
            self._drop_oldest()
            self.evicted += 1

    def _drop_oldest(self) -> None:
        _, group = self._groups.popitem(last=False)
        self._firings -= len(group.window)


class _Window(Protocol):
    """Firings of one group, as far as they can still decide."""

    @property
    def holds(self) -> bool:
        """Whether the condition holds with the firings that were not trimmed."""
        ...

    def trim(self, since: int) -> None:
        """Forgets firings before `since`."""
        ...

    def add(self, alert: AlertFacts, now: int) -> None: ...

    def alert_ids(self) -> tuple[str, ...]:
        """Of the firings for which the condition holds, oldest first."""
        ...

    def __len__(self) -> int:
        """Firings that are kept."""
        ...


class _Group:
    __slots__ = ("latest", "window")

    def __init__(self, window: _Window) -> None:
        self.window = window
        self.latest = 0


def _window(correlation: Correlation) -> _Window:
    if correlation.kind == "ordered":
        return _Ordered(correlation.rules)
    at_least = correlation.at_least or 0
    return _Count(at_least) if correlation.kind == "count" else _Distinct(at_least, correlation.of or "")


class _Count:
    """The latest `at_least` firings: older ones decide nothing."""

    __slots__ = ("_at_least", "_firings")

    def __init__(self, at_least: int) -> None:
        self._at_least = at_least
        self._firings: deque[tuple[int, str]] = deque(maxlen=at_least)

    @property
    def holds(self) -> bool:
        return len(self._firings) == self._at_least

    def trim(self, since: int) -> None:
        while self._firings and self._firings[0][0] < since:
            self._firings.popleft()

    def add(self, alert: AlertFacts, now: int) -> None:
        self._firings.append((now, alert.alert_id))

    def alert_ids(self) -> tuple[str, ...]:
        return tuple(alert_id for _, alert_id in self._firings)

    def __len__(self) -> int:
        return len(self._firings)


class _Distinct:
    """The latest firing of each of the `at_least` values that fired last: those of others are too old before theirs."""

    __slots__ = ("_at_least", "_latest", "_of")

    def __init__(self, at_least: int, of: str) -> None:
        self._at_least = at_least
        self._of = of
        self._latest: OrderedDict[str, tuple[int, str]] = OrderedDict()

    @property
    def holds(self) -> bool:
        return len(self._latest) == self._at_least

    def trim(self, since: int) -> None:
        while self._latest and next(iter(self._latest.values()))[0] < since:
            self._latest.popitem(last=False)

    def add(self, alert: AlertFacts, now: int) -> None:
        value = alert.value(self._of)
        self._latest[value] = now, alert.alert_id
        self._latest.move_to_end(value)
        if len(self._latest) > self._at_least:
            self._latest.popitem(last=False)

    def alert_ids(self) -> tuple[str, ...]:
        return tuple(alert_id for _, alert_id in self._latest.values())

    def __len__(self) -> int:
        return len(self._latest)


class _Ordered:
    """For each rule the chain of firings up to it, in the order of the rules, that began last."""

    __slots__ = ("_chains", "_rules")

    def __init__(self, rules: tuple[str, ...]) -> None:
        self._rules = rules
        # Time of the first firing and ids of all; None where there is no such chain.
        self._chains: list[tuple[int, tuple[str, ...]] | None] = [None] * len(rules)

    @property
    def holds(self) -> bool:
        return self._chains[-1] is not None

    def trim(self, since: int) -> None:
        self._chains = [None if chain is None or chain[0] < since else chain for chain in self._chains]

    def add(self, alert: AlertFacts, now: int) -> None:
        step = self._rules.index(alert.rule)
        if step == 0:
            self._chains[0] = now, (alert.alert_id,)
        elif (before := self._chains[step - 1]) is not None:
            self._chains[step] = before[0], (*before[1], alert.alert_id)

    def alert_ids(self) -> tuple[str, ...]:
        return () if self._chains[-1] is None else self._chains[-1][1]

    def __len__(self) -> int:
        return sum(len(chain[1]) for chain in self._chains if chain is not None)
