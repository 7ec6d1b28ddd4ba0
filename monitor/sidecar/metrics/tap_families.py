"""What each tap says of itself, as Prometheus metric families with the label `tap`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from monitor.rpc import name_of
from monitor.sidecar.metrics.samples import counters, gauge, gauges
from monitor.v1.policies_pb2 import TapStatus
from monitor.v1.tap_pb2 import SelfTest

MOST_TAPS: Final = 256
"""Taps that are told one by one. Whoever reaches the socket may name taps; the totals count them all."""

_COUNTERS: Final[tuple[tuple[str, str, Callable[[TapStatus], float]], ...]] = (
    ("frames", "Frames that the sidecar took.", lambda tap: tap.frames),
    ("rows", "Rows that the sidecar took.", lambda tap: tap.rows),
    ("steps", "Engine steps with rows.", lambda tap: tap.steps),
    (
        "steps_fired",
        "Engine steps in which every hook point's operation ran; equal to steps in health.",
        lambda tap: tap.steps_fired,
    ),
    ("computed_rows", "Rows that the engine computed and the tap saw.", lambda tap: tap.heartbeat.rows),
    ("dropped_rows", "Rows that the tap could not send; they are gaps.", lambda tap: tap.dropped_rows),
    (
        "rejected_draft_rows",
        "Rows of draft tokens that were not accepted; they are no positions.",
        lambda tap: tap.heartbeat.rejected_draft_rows,
    ),
    ("errors", "Errors that the tap caught, and faults of its frames.", lambda tap: tap.errors),
    (
        "unreported_requests",
        "Requests that came and went unreported in an outage.",
        lambda tap: tap.unreported_requests,
    ),
    (
        "unreported_positions",
        "Positions of these requests; no other metric counts them.",
        lambda tap: tap.heartbeat.unreported_positions,
    ),
    ("attached_seconds", "Time since the tap was attached.", lambda tap: tap.heartbeat.attached_nanos / 1e9),
    (
        "engine_thread_seconds",
        "Time that the tap took in the engine's thread, encoding included.",
        lambda tap: tap.heartbeat.engine_thread_nanos / 1e9,
    ),
    ("encode_seconds", "Time that encoding took in the engine's thread.", lambda tap: tap.heartbeat.encode_nanos / 1e9),
    ("publish_seconds", "Time that the publisher's thread worked.", lambda tap: tap.heartbeat.publish_nanos / 1e9),
)


def tap_families(taps: Sequence[TapStatus]) -> Iterator[Metric]:
    """The first `MOST_TAPS` of `taps`."""
    yield gauge("featurewatch_taps", "Taps that are known, those that went away a moment ago included.", len(taps))
    taps = taps[:MOST_TAPS]
    yield _info(taps)
    yield gauges(
        "featurewatch_tap_connected",
        "1 while the tap's stream is open.",
        ("tap",),
        [((tap.tap_id,), float(tap.connected)) for tap in taps],
    )
    for name, help_text, value in _COUNTERS:
        yield counters(f"featurewatch_tap_{name}", help_text, ("tap",), [((tap.tap_id,), value(tap)) for tap in taps])
    yield counters(
        "featurewatch_tap_positions",
        "Positions of this tap's requests by what became of them.",
        ("tap", "coverage"),
        [
            ((tap.tap_id, kind), getattr(tap.coverage, kind))
            for tap in taps
            for kind in ("observed", "restored", "dropped", "unseen")
        ],
    )
    yield counters(
        "featurewatch_tap_coverage_broken",
        "Ended requests of this tap whose coverage did not add up.",
        ("tap",),
        [((tap.tap_id,), tap.coverage.broken) for tap in taps],
    )
    yield gauges(
        "featurewatch_tap_self_test",
        "1 at the outcome of the tap's test at start: passed, failed, not_run, or unspecified before a heartbeat.",
        ("tap", "outcome"),
        [
            ((tap.tap_id, outcome), float(outcome == _outcome(tap)))
            for tap in taps
            for outcome in ("passed", "failed", "not_run", "unspecified")
        ],
    )
    yield gauges(
        "featurewatch_tap_unserved_policies",
        "Loaded policies that this tap cannot serve.",
        ("tap",),
        [((tap.tap_id,), len(tap.unserved)) for tap in taps],
    )
    yield gauges(
        "featurewatch_tap_memory_bytes",
        "What the tap holds in the engine: static buffers, flight recorder, and the most that its queue may hold.",
        ("tap", "part"),
        [
            ((tap.tap_id, part), value)
            for tap in taps
            for part, value in (
                ("buffers", tap.memory.buffer_bytes),
                ("recorder", tap.memory.recorder_bytes),
                ("queue_limit", tap.memory.queue_bytes),
            )
        ],
    )


def _info(taps: Sequence[TapStatus]) -> GaugeMetricFamily:
    labels = ("tap", "model", "engine", "version", "runner", "execution", "device", "dp_rank", "pp_rank", "tp_rank")
    return gauges(
        "featurewatch_tap_info",
        "1; what the tap is attached to.",
        labels,
        [
            (
                (
                    tap.tap_id,
                    tap.model,
                    tap.engine.name,
                    tap.engine.version,
                    tap.engine.runner,
                    tap.engine.execution,
                    tap.engine.device,
                    str(tap.engine.data_parallel_rank),
                    str(tap.engine.pipeline_parallel_rank),
                    str(tap.engine.tensor_parallel_rank),
                ),
                1.0,
            )
            for tap in taps
        ],
    )


def _outcome(tap: TapStatus) -> str:
    return name_of(SelfTest.Outcome, tap.heartbeat.self_test.outcome)
