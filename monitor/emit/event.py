"""An alert as a flat event: one level of strings and numbers, so that any log pipeline takes it as it is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime

from monitor.rpc import name_of
from monitor.v1.alerts_pb2 import Alert, DetectorReading, DetectorState, Mode, ModeSource, Phase, Severity

Fields = dict[str, str | int | float]


@dataclass(frozen=True)
class Event:
    """What sinks deliver.

    Attributes:
        event_id: stable; a receiver that has seen it drops the second copy.
        line: the fields as one line of JSON, without the newline.
    """

    event_id: str
    line: str

    @property
    def fields(self) -> Fields:
        fields: Fields = json.loads(self.line)
        return fields

    @classmethod
    def from_line(cls, line: str) -> Event:
        """Reads a line that `of` made; raises ValueError for anything else."""
        fields = json.loads(line)
        if not isinstance(fields, dict) or "event_id" not in fields:
            raise ValueError("it must be a JSON object with an event_id")
        return cls(event_id=str(fields["event_id"]), line=line)

    @classmethod
    def of(cls, event_id: str, fields: Fields) -> Event:
        """NaN is no JSON: a number that is none is left out. ASCII only: no token can steer a terminal, and no reader
        takes a character such as U+2028 or U+0085 for the end of the line."""
        finite = {name: value for name, value in fields.items() if not isinstance(value, float) or math.isfinite(value)}
        return cls(event_id, json.dumps(finite, allow_nan=False, separators=(",", ":")))


def utc(unix_nanos: int) -> str:
    """As ISO 8601 writes it, with milliseconds."""
    return datetime.fromtimestamp(unix_nanos / 1e9, UTC).isoformat(timespec="milliseconds")


def alert_event(alert: Alert) -> Event:
    """The flat event of an alert; docs/sidecar.md lists its fields."""
    fields: Fields = {
        "event_id": alert.alert_id,
        "event": "rule_fired",
        "time": utc(alert.time_unix_nanos),
        "time_unix_nanos": alert.time_unix_nanos,
        "severity": name_of(Severity, alert.severity),
        "policy": alert.policy,
        "policy_revision": alert.policy_revision,
        "policy_sha256": alert.policy_sha256,
        "rule": alert.rule,
        "mode": name_of(Mode, alert.mode),
        "model": alert.model,
        "request_id": alert.request_id,
        "external_id": alert.external_id,
        "generation_id": alert.generation_id,
        "position": alert.position,
        "phase": name_of(Phase, alert.phase),
        "token_id": alert.token_id,
        "token": alert.token,
        "latency_ms": round(alert.latency_nanos / 1e6, 3),
        "runbook": alert.runbook,
    }
    fields |= _of_some(alert)
    reading = leading_reading(alert)
    if reading is not None:
        fields |= {
            "detector": reading.detector,
            "detector_state": name_of(DetectorState, reading.state),
            "score": reading.score,
            "token_score": reading.token_score,
            "warn": reading.warn,
            "fire": reading.fire,
        }
        if reading.contributions:
            top = reading.contributions[0]
            fields |= {"direction": top.direction, "direction_label": top.label, "activation": top.activation}
    return Event.of(alert.alert_id, fields)


def _of_some(alert: Alert) -> Fields:
    """What only some alerts have."""
    fields: Fields = {
        "tenant": alert.tenant,
        "mode_source": name_of(ModeSource, alert.mode_source) if alert.mode_source else "",
        "exception": alert.exception,
        "late": int(alert.late),
        "restored": int(alert.restored),
        "unseen_positions": alert.unseen_positions,
        "dropped_positions": alert.dropped_positions,
        "correlated": ",".join(alert.correlated),
    }
    return {name: value for name, value in fields.items() if value}


def leading_reading(alert: Alert) -> DetectorReading | None:
    """The reading that says most about why the rule fired: of the detectors that it names and of those in the highest
    state, the one furthest above its `fire` threshold, measured in steps from warn to fire. None without readings."""
    named = [reading for reading in alert.readings if reading.in_rule]
    if not named:
        return None

    def lead(reading: DetectorReading) -> tuple[int, float]:
        step = max(reading.fire - reading.warn, 1e-9)
        return reading.state, (reading.score - reading.fire) / step

    return max(named, key=lead)
