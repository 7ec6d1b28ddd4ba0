"""A tap that goes blind is told in the sidecar's log."""

from __future__ import annotations

import logging

import pytest

from monitor.sidecar.tap_health import TapHealth
from monitor.v1.tap_pb2 import Heartbeat


def _said(caplog: pytest.LogCaptureFixture, *heartbeats: Heartbeat) -> list[str]:
    health = TapHealth(logging.getLogger("health"), "tap-1")
    with caplog.at_level(logging.WARNING, "health"):
        for heartbeat in heartbeats:
            health.take(heartbeat)
    assert health.last == heartbeats[-1]
    return caplog.messages


def test_a_tap_that_sees_everything_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    assert _said(caplog, *(Heartbeat(steps=n, steps_fired=n, rows=9 * n, dropped_rows=n) for n in range(5))) == []


def test_a_step_half_counted_is_no_silence(caplog: pytest.LogCaptureFixture) -> None:
    beats = [Heartbeat(steps=8, steps_fired=7), Heartbeat(steps=9, steps_fired=9), Heartbeat(steps=12, steps_fired=11)]
    assert _said(caplog, *beats) == []


def test_silent_hook_points_are_told(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = _said(caplog, *(Heartbeat(steps=9, steps_fired=2) for _ in range(3)))
    assert line.startswith("tap tap-1: hook points silent: in 7 of 9 steps one did not fire; their rows are not judged")


def test_errors_and_forgotten_requests_are_told_as_they_grow(caplog: pytest.LogCaptureFixture) -> None:
    said = _said(
        caplog,
        Heartbeat(steps=3, steps_fired=3, errors=1),
        Heartbeat(steps=3, steps_fired=3, errors=1),
        Heartbeat(steps=3, steps_fired=3, errors=2, unreported_requests=4, unreported_positions=90),
    )
    assert [line.split(": ")[1] for line in said] == ["errors caught", "errors caught", "requests forgotten"]
    assert "4 with 90 positions" in said[2]
