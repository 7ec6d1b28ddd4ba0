"""Alerts and sinks for the tests of this room."""

from __future__ import annotations

from monitor.emit import Event, SinkError, alert_event
from monitor.v1.alerts_pb2 import (
    Alert,
    Contribution,
    DetectorReading,
    DetectorState,
    Mode,
    Phase,
    Severity,
)


def make_alert(number: int = 1) -> Alert:
    return Alert(
        alert_id=f"alert-{number}",
        time_unix_nanos=1_700_000_000_123_000_000,
        policy="loud",
        policy_revision=2,
        policy_sha256="ab" * 32,
        rule="LOUD-001",
        severity=Severity.SEVERITY_HIGH,
        mode=Mode.MODE_ALERT,
        request_id="req-1-x1",
        external_id="req-1",
        generation_id="gen-1",
        model="tiny",
        position=4,
        token_id=17,
        token=" bömb\n",
        phase=Phase.PHASE_RESPONSE,
        latency_nanos=1_500_000,
        runbook="https://example.org/loud",
        readings=[
            DetectorReading(
                in_rule=True,
                detector="warm",
                state=DetectorState.DETECTOR_STATE_WARN,
                score=99,
                warn=1,
                fire=100,
                clear=1,
            ),
            DetectorReading(
                in_rule=True,
                detector="dense",
                state=DetectorState.DETECTOR_STATE_FIRE,
                score=2.5,
                token_score=float("nan"),
                warn=1,
                fire=2,
                clear=0.5,
                contributions=[
                    Contribution(direction="tiny/resid_post.3/4", label="explosives", activation=2.5, contribution=2.5)
                ],
            ),
        ],
    )


def make_event(number: int = 1) -> Event:
    return alert_event(make_alert(number))


class FailingSink:
    """Fails the first `failures` deliveries, or all while `down`; keeps what it took."""

    name = "failing sink"

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.down = False
        self.taken: list[str] = []
        self.attempts = 0
        self.closed = False

    async def deliver(self, event: Event) -> None:
        self.attempts += 1
        if self.down or self.attempts <= self.failures:
            raise SinkError("away")
        self.taken.append(event.event_id)

    async def close(self) -> None:
        self.closed = True
