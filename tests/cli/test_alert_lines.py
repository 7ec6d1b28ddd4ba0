"""What a terminal is told of an alert."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from monitor.cli.render import alert_line, render_generation
from monitor.v1.alerts_pb2 import Alert, Mode, Phase, Severity
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary


def alert(**more: Any) -> Alert:
    fields: dict[str, Any] = {
        "policy": "loud",
        "rule": "LOUD-001",
        "severity": Severity.SEVERITY_HIGH,
        "mode": Mode.MODE_ALERT,
        "external_id": "req-1",
        "request_id": "req-1-x1",
        "position": 4,
        "token": " cake",
        "phase": Phase.PHASE_RESPONSE,
        "latency_nanos": 1_500_000,
    }
    return Alert(**{**fields, **more})


PLAIN = "HIGH     loud/LOUD-001  req-1  token 4 “cake” in response"


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ({}, PLAIN),
        ({"tenant": "ac\x1bme"}, "req-1 for ac\\u001bme  token 4 “cake” in response"),
        ({"correlated": ["a", "b", "c"]}, f"{PLAIN}  completes 3 alerts together"),
        (
            {"exception": "red-team", "mode": Mode.MODE_SHADOW},
            "(shadow)  req-1  token 4 “cake” in response  not sent: exception red-team",
        ),
        ({"dropped_positions": 7, "rule": "on-drop"}, "7 positions dropped"),
        ({"unseen_positions": 8}, f"{PLAIN}  8 positions unseen"),
        ({"late": True}, f"{PLAIN}  after the deadline"),
        ({"external_id": "", "request_id": "", "rule": "on-stale"}, "HIGH     loud/on-stale"),
    ],
)
def test_a_line_tells_what_is_special_about_an_alert(more: dict[str, Any], ends: str) -> None:
    assert alert_line(alert(**more)).plain.endswith(ends)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "fired at token 4 “cake” in the response, 1.5 ms after its forward pass"),
        ({"correlated": ["a", "b", "c"]}, "fired at token 4 “cake” in the response, together with 2 alerts before it"),
        ({"dropped_positions": 7}, "in the response, 7 positions were dropped"),
        ({"exception": "red-team"}, "after its forward pass; not sent, for exception red-team held"),
        ({"late": True}, "1.5 ms after its forward pass; after the deadline"),
    ],
)
def test_a_record_tells_it_too(more: dict[str, Any], says: str) -> None:
    record = GenerationRecord(summary=GenerationSummary(generation_id="gen-1"), alerts=[alert(**more)])
    console = Console(width=400)
    with console.capture() as shown:
        console.print(render_generation(record))
    assert says in shown.get()
