"""Times of requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.policy_tests.times import parse_time, time_text, times_of

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d1s", 172_801), ("0h", 0)]
)
def test_what_a_time_stands_for(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds * SECOND


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", [300]),
        ("0s 20m 59m", [0, 1200, 3540]),
        ("0s..4mx5", [0, 60, 120, 180, 240]),
        ("0s..1sx3", [0, 0.5, 1]),
        ("10sx2 0s", [10, 10, 0]),
        ("1m..0sx2", [60, 0]),
    ],
)
def test_a_series_of_times(text: str, seconds: list[float]) -> None:
    assert times_of(text) == [round(second * SECOND) for second in seconds]


@given(st.integers(0, 10_000_000))
def test_what_is_told_can_be_written(seconds: int) -> None:
    assert parse_time(time_text(seconds * SECOND)) == seconds * SECOND


def test_fractions_are_told() -> None:
    assert [time_text(nanos) for nanos in (0, SECOND // 2, 61 * SECOND + SECOND // 4)] == ["0s", "0.5s", "1m1.25s"]
