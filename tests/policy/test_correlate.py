"""Correlations against a naive reference that keeps every firing."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.policy.alert_facts import AlertFacts
from monitor.policy.correlate import MOST_FIRINGS, MOST_GROUPS, MOST_NAMED, Correlator
from monitor.policy.schema.rule import Correlation
from monitor.policy.vocabulary import Severity

SECOND = 1_000_000_000
RULES = ("A", "B", "C")


def correlation(kind: str, **fields: object) -> Correlation:
    given_fields = {"id": "REPEATED", "kind": kind, "rules": RULES, "within": "10s", "severity": "high", **fields}
    return Correlation.model_validate(given_fields)


def facts(number: int, rule: str = "A", tenant: str = "acme", **more: str) -> AlertFacts:
    fields = {"model": "tiny", "adapter": "", "tap": "tap-1", "generation": f"gen-{number}", **more}
    return AlertFacts(
        alert_id=f"alert-{number}",
        time_unix_nanos=number,
        rule=rule,
        severity=Severity.LOW,
        tenant=tenant,
        **fields,
    )


Event = tuple[AlertFacts, int]

#: From one firing to the next: bounds of the time span are met exactly and missed by a nanosecond; clocks step back.
steps = st.sampled_from([0, 1, SECOND, 3 * SECOND, 5 * SECOND, 7 * SECOND, 10 * SECOND, 11 * SECOND, -4 * SECOND])


@st.composite
def sequences(draw: st.DrawFn, *, ordered_times: bool = False) -> list[Event]:
    """Firings of a few rules, tenants and generations; rule D belongs to no correlation."""
    events, moment = list[Event](), 100 * SECOND
    for number in range(draw(st.integers(0, 30))):
        step = draw(steps)
        moment += abs(step) if ordered_times else step
        alert = facts(
            number,
            draw(st.sampled_from((*RULES, *RULES, "D"))),
            draw(st.sampled_from(["acme", "acme", "acme", "umbrella", ""])),
            generation=draw(st.sampled_from(["g1", "g2", "g3", "g4"])),
            model=draw(st.sampled_from(["tiny", "tiny", "large"])),
        )
        events.append((alert, moment))
    return events


correlations = st.one_of(
    st.builds(lambda n, by: correlation("count", atLeast=n, groupBy=by), st.integers(2, 5), st.just(("tenant",))),
    st.builds(lambda n: correlation("count", atLeast=n, groupBy=("tenant", "model")), st.integers(2, 4)),
    st.builds(
        lambda n, of: correlation("distinct", atLeast=n, of=of),
        st.integers(2, 3),
        st.sampled_from(["generation", "rule", "model"]),
    ),
    st.builds(lambda order: correlation("ordered", rules=tuple(order)), st.permutations(RULES)),
    st.just(correlation("ordered", rules=("B", "A"), groupBy=("model",))),
    st.just(correlation("count", atLeast=3, groupBy=())),
)


def naive(rule: Correlation, events: Sequence[Event]) -> list[bool]:
    """Whether the correlation fires at each event, from all events before it."""
    fires, kept, now = [], list[Event](), 0
    for alert, moment in events:
        now = max(now, moment)
        if alert.rule not in rule.rules:
            fires.append(False)
            continue
        group = alert.values(rule.group_by)
        held = holds(rule, kept, group, now)
        kept.append((alert, now))
        fires.append(holds(rule, kept, group, now) and not held)
    return fires


def holds(rule: Correlation, events: Sequence[Event], group: tuple[str, ...], now: int) -> bool:
    recent = [alert for alert, moment in events if now - moment <= rule.within_seconds * SECOND]
    recent = [alert for alert in recent if alert.values(rule.group_by) == group]
    if rule.kind == "count":
        return len(recent) >= (rule.at_least or 0)
    if rule.kind == "distinct":
        return len({alert.value(rule.of or "") for alert in recent}) >= (rule.at_least or 0)
    wanted = list(rule.rules)
    for alert in recent:
        if wanted and alert.rule == wanted[0]:
            wanted.pop(0)
    return not wanted


def run(rule: Correlation, events: Sequence[Event]) -> list[tuple[str, ...]]:
    correlator = Correlator(rule)
    return [correlator.observe(alert, moment) for alert, moment in events]


@settings(max_examples=250, deadline=None)
@given(correlations, sequences())
def test_it_fires_where_the_naive_reference_does(rule: Correlation, events: list[Event]) -> None:
    assert [bool(ids) for ids in run(rule, events)] == naive(rule, events)


@settings(max_examples=100, deadline=None)
@given(correlations, sequences())
def test_a_replay_gives_the_same_alerts(rule: Correlation, events: list[Event]) -> None:
    assert run(rule, events) == run(rule, events)


@settings(max_examples=100, deadline=None)
@given(correlations, sequences(ordered_times=True))
def test_the_named_alerts_are_those_of_the_condition(rule: Correlation, events: list[Event]) -> None:
    by_id = {alert.alert_id: (alert, moment) for alert, moment in events}
    for (alert, moment), ids in zip(events, run(rule, events), strict=True):
        if not ids:
            continue
        named = [by_id[alert_id] for alert_id in ids]
        assert ids[-1] == alert.alert_id
        assert [time for _, time in named] == sorted(time for _, time in named)
        assert all(moment - time <= rule.within_seconds * SECOND for _, time in named)
        assert {one.values(rule.group_by) for one, _ in named} == {alert.values(rule.group_by)}
        if rule.kind == "ordered":
            assert tuple(one.rule for one, _ in named) == rule.rules
        elif rule.kind == "distinct":
            assert len({one.value(rule.of or "") for one, _ in named}) == len(ids) == rule.at_least
        else:
            assert len(ids) == rule.at_least


def test_a_burst_is_one_alert_and_a_new_burst_another() -> None:
    correlator = Correlator(correlation("count", atLeast=3))
    fired = [bool(correlator.observe(facts(n), n * SECOND)) for n in range(6)]
    assert fired == [False, False, True, False, False, False]
    later = [bool(correlator.observe(facts(n), n * SECOND)) for n in range(100, 104)]
    assert later == [False, False, True, False]


def test_exactly_the_time_span_apart_counts_and_a_nanosecond_more_does_not() -> None:
    for gap, fires in ((10 * SECOND, True), (10 * SECOND + 1, False)):
        correlator = Correlator(correlation("count", atLeast=2))
        correlator.observe(facts(1), 5)
        assert bool(correlator.observe(facts(2), 5 + gap)) is fires


def test_a_clock_that_steps_back_ages_nothing_and_time_goes_on_from_the_latest() -> None:
    correlator = Correlator(correlation("count", atLeast=3))
    for number, moment in enumerate((100, 40, 105)):
        ids = correlator.observe(facts(number), moment * SECOND)
    assert ids == ("alert-0", "alert-1", "alert-2")


def test_the_least_recent_groups_make_room_and_are_counted() -> None:
    correlator = Correlator(correlation("count", atLeast=2), most_groups=2)
    for number, tenant in enumerate(("a", "b", "a", "c")):
        correlator.observe(facts(number, tenant=tenant), number)
    assert (len(correlator), correlator.evicted) == (2, 1)
    # b was forgotten: its second firing counts as its first. That in turn pushes out a.
    assert not correlator.observe(facts(5, tenant="b"), 5)
    assert correlator.observe(facts(6, tenant="c"), 6)


def test_groups_whose_time_is_over_are_forgotten_without_being_counted() -> None:
    correlator = Correlator(correlation("count", atLeast=2))
    for number in range(50):
        correlator.observe(facts(number, tenant=f"t{number}"), number * 11 * SECOND)
        assert len(correlator) == 1
    correlator.forget(1000 * SECOND)
    assert (len(correlator), correlator.evicted) == (0, 0)


@pytest.mark.parametrize(
    "rule",
    [
        correlation("count", atLeast=50),
        correlation("distinct", atLeast=50, of="generation"),
        correlation("ordered"),
    ],
    ids=lambda rule: rule.kind,
)
def test_firings_of_all_groups_together_are_bounded(rule: Correlation) -> None:
    correlator = Correlator(rule, most_firings=120)
    for number in range(3000):
        correlator.observe(facts(number, RULES[number % 3], tenant=f"t{number // 100}"), number)
        kept = sum(len(group.window) for group in correlator._groups.values())
        assert correlator._firings == kept <= 120
    assert correlator.evicted > 0


def test_at_most_a_hundred_alerts_are_named_the_newest() -> None:
    correlator = Correlator(correlation("count", atLeast=150))
    named = [correlator.observe(facts(number), number) for number in range(150)][-1]
    assert named == tuple(f"alert-{number}" for number in range(150 - MOST_NAMED, 150))


def test_ordered_needs_the_order() -> None:
    fired = [
        [bool(ids) for ids in run(correlation("ordered"), [(facts(n, rule), n) for n, rule in enumerate(order)])][-1]
        for order in ("ABC", "ACB", "CBA", "AABBC", "ABAC")
    ]
    assert fired == [True, False, False, True, True]


def test_ordered_restarts_from_the_latest_beginning() -> None:
    """The first A is too old for C; the second with a later B is not."""
    events = [("A", 0), ("B", 1), ("A", 8), ("B", 9), ("C", 15)]
    moments = [(facts(number, rule), moment * SECOND) for number, (rule, moment) in enumerate(events)]
    assert run(correlation("ordered"), moments)[-1] == ("alert-2", "alert-3", "alert-4")


def test_a_full_correlation_takes_what_the_docs_say() -> None:
    """A 32nd of the largest kind: ids of as many alerts and generations as are kept."""
    groups, firings = MOST_GROUPS // 32, MOST_FIRINGS // 32
    rule = correlation("distinct", atLeast=32, of="generation", within="1d")
    correlator = Correlator(rule, most_groups=groups, most_firings=firings)
    tracemalloc.start()
    try:
        for number in range(firings):
            alert = facts(number, tenant=f"tenant-{number % groups}", generation=f"{number:036}")
            correlator.observe(replace(alert, alert_id=f"{number:036}"), number)
        nbytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(correlator), correlator._firings) == (groups, firings)
    assert nbytes < (48 << 20) // 32


def test_a_value_that_comes_again_does_not_keep_older_ones_alive() -> None:
    events = [("g1", 0), ("g2", 1), ("g1", 9), ("g3", 12), ("g2", 13)]
    moments = [(facts(n, generation=generation), moment * SECOND) for n, (generation, moment) in enumerate(events)]
    fired = [bool(ids) for ids in run(correlation("distinct", atLeast=3, of="generation"), moments)]
    assert fired == [False, False, False, False, True]


@pytest.mark.parametrize(("late", "fires"), [(0, True), (1, False)])
def test_an_order_must_be_complete_within_the_time_span(late: int, fires: bool) -> None:
    events = [(facts(0, "A"), 0), (facts(1, "B"), 4 * SECOND), (facts(2, "C"), 10 * SECOND + late)]
    assert bool(run(correlation("ordered"), events)[-1]) is fires
