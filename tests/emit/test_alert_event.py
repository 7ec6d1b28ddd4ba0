"""The flat event of an alert."""

import json

from emit_kit import make_alert

from monitor.emit import Event, alert_event, leading_reading
from monitor.v1.alerts_pb2 import Alert, ModeSource


def test_an_event_is_one_line_of_flat_json() -> None:
    event = alert_event(make_alert())
    assert "\n" not in event.line
    fields = json.loads(event.line)
    assert all(isinstance(value, str | int | float) for value in fields.values())
    assert fields == {
        "event_id": "alert-1",
        "event": "rule_fired",
        "time": "2023-11-14T22:13:20.123+00:00",
        "time_unix_nanos": 1_700_000_000_123_000_000,
        "severity": "high",
        "policy": "loud",
        "policy_revision": 2,
        "policy_sha256": "ab" * 32,
        "rule": "LOUD-001",
        "mode": "alert",
        "model": "tiny",
        "request_id": "req-1-x1",
        "external_id": "req-1",
        "generation_id": "gen-1",
        "position": 4,
        "phase": "response",
        "token_id": 17,
        "token": " bömb\n",
        "latency_ms": 1.5,
        "runbook": "https://example.org/loud",
        "detector": "dense",
        "detector_state": "fire",
        "score": 2.5,
        "warn": 1.0,
        "fire": 2.0,
        "direction": "tiny/resid_post.3/4",
        "direction_label": "explosives",
        "activation": 2.5,
    }, "token_score is NaN, which JSON lacks, and is left out"
    assert Event.from_line(event.line) == event


def test_what_was_restored_or_not_seen_says_so() -> None:
    restored, unseen = make_alert(), Alert(alert_id="u", rule="on-unseen", unseen_positions=64)
    restored.restored = True
    assert alert_event(restored).fields["restored"] == 1
    assert alert_event(unseen).fields["unseen_positions"] == 64
    assert {"restored", "unseen_positions"}.isdisjoint(alert_event(make_alert()).fields)


def test_what_only_some_alerts_have_is_left_out_of_the_others() -> None:
    alert = make_alert()
    alert.tenant, alert.exception, alert.late, alert.dropped_positions = "acme", "red-team", True, 12
    alert.mode_source = ModeSource.MODE_SOURCE_RUNTIME
    alert.correlated.extend(["alert-7", "alert-8"])
    more = {
        name: value for name, value in alert_event(alert).fields.items() if name not in alert_event(make_alert()).fields
    }
    assert more == {
        "tenant": "acme",
        "mode_source": "runtime",
        "exception": "red-team",
        "late": 1,
        "dropped_positions": 12,
        "correlated": "alert-7,alert-8",
    }


def test_the_leading_reading_is_in_the_highest_state() -> None:
    reading = leading_reading(make_alert())
    assert reading is not None
    assert reading.detector == "dense"
    assert leading_reading(Alert()) is None
    assert alert_event(Alert(alert_id="bare")).fields["event_id"] == "bare"
