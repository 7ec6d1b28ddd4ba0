"""A snapshot as Prometheus metric families. No label's values grow with traffic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import HistogramMetricFamily, InfoMetricFamily, Metric

from monitor import __version__
from monitor.sidecar.evidence.desk import EvidenceStats
from monitor.sidecar.history import HistoryStats
from monitor.sidecar.metrics.latency import LatencyHistogram
from monitor.sidecar.metrics.policy_families import policy_families
from monitor.sidecar.metrics.samples import counter, counters, gauge, gauges
from monitor.sidecar.metrics.snapshot import Snapshot
from monitor.sidecar.prefix.states import PrefixStats

# Between them the histogram's own bounds are served, 6 to 14 % apart; beyond them a few.
_FINE_SECONDS: Final = (0.00025, 0.05)
_COARSE_SECONDS: Final = (0.0001, 0.1, 0.25, 0.5, 1.0, float("inf"))


def sidecar_families(snapshot: Snapshot) -> Iterator[Metric]:
    """Everything but what is told tap by tap."""
    totals, ledger = snapshot.totals, snapshot.ledger
    yield InfoMetricFamily("featurewatch_build", "Version of the sidecar.", {"version": __version__})
    yield gauge(
        "featurewatch_snapshot_age_seconds",
        "Age of the counters: above a second when judging took longer than a scrape waits.",
        time.monotonic() - snapshot.taken,
    )
    yield counter("featurewatch_frames", "Frames that taps sent and the sidecar took.", totals.frames)
    yield counter("featurewatch_rows", "Rows of these frames whose activations could be read.", totals.rows)
    yield counters(
        "featurewatch_positions",
        "Positions of requests by what became of them; each is counted once.",
        ("coverage",),
        [
            (("observed",), totals.observed),
            (("restored",), totals.restored),
            (("dropped",), totals.dropped),
            (("unseen",), totals.unseen),
        ],
    )
    yield counter(
        "featurewatch_coverage_broken",
        "Ended requests whose coverage did not add up to the positions that the engine reported. 0 in health.",
        totals.broken,
    )
    yield gauge("featurewatch_live_requests", "Requests that run now, on all taps.", snapshot.live_requests)
    yield counters(
        "featurewatch_frame_problems",
        "What was wrong with frames, by kind; the log says more.",
        ("kind",),
        [((kind,), count) for kind, count in sorted(snapshot.problems.items())],
    )
    yield from policy_families(ledger, snapshot.policies)
    yield counters(
        "featurewatch_policy_reloads",
        "Readings of the policy files after the start: changed, unchanged, refused, and then the old ones stayed, or "
        "failed: whether they have changed could not be found out.",
        ("outcome",),
        [((outcome,), snapshot.reloads[outcome]) for outcome in ("changed", "unchanged", "refused", "failed")],
    )
    yield gauge(
        "featurewatch_policy_problems",
        "Problems of the policy files as they were read last. Above 0 they are refused, and older ones are in force.",
        snapshot.policy_problems,
    )
    yield counters(
        "featurewatch_correlation_groups_evicted",
        "Groups of correlations that made room for others while their firings still counted.",
        ("policy",),
        [((policy,), count) for policy, count in sorted(snapshot.correlation_groups_evicted.items())],
    )
    yield counters(
        "featurewatch_notifications",
        "Notifications that gathered alerts, sent to file and Redis.",
        ("policy",),
        [((policy,), count) for policy, count in sorted(snapshot.notifications.items())],
    )
    yield latency_family(
        "featurewatch_decision_latency_seconds",
        "From the end of a forward pass to the moment at which its rows were judged, per frame with rows.",
        ledger.latency,
    )
    yield counters(
        "featurewatch_delivery_events",
        "Alert events by sink and outcome; dropped ones did not fit where they wait.",
        ("sink", "outcome"),
        [
            ((name, outcome), count)
            for name, stats in snapshot.deliveries
            for outcome, count in (("delivered", stats.delivered), ("dropped", stats.dropped))
        ],
    )
    yield counters(
        "featurewatch_delivery_failed_attempts",
        "Attempts to deliver that a sink refused; the event waits and is tried again.",
        ("sink",),
        [((name,), stats.failed_attempts) for name, stats in snapshot.deliveries],
    )
    yield gauges(
        "featurewatch_delivery_pending_events",
        "Events that wait for a sink, in memory or in the spool.",
        ("sink",),
        [((name,), stats.pending) for name, stats in snapshot.deliveries],
    )
    yield counters(
        "featurewatch_records",
        "Generation records by outcome of writing them to the store.",
        ("outcome",),
        [(("written",), snapshot.records_written), (("lost",), snapshot.records_lost)],
    )
    yield from memory_families(snapshot.history, snapshot.prefixes)
    yield from evidence_families(snapshot.evidence)


def memory_families(history: HistoryStats, prefixes: PrefixStats) -> Iterator[Metric]:
    """The two bounded stores."""
    yield gauge("featurewatch_history_limit_bytes", "Size of the pool of histories.", history.max_bytes)
    yield gauge(
        "featurewatch_history_used_bytes", "Pages of it that hold token ids and scores of requests.", history.used_bytes
    )
    yield counter(
        "featurewatch_history_given_up_pages",
        "Pages that were taken from a request, the oldest first, because the pool was full; records say so.",
        history.given_up,
    )
    yield gauge("featurewatch_prefix_states_limit_bytes", "Size of the store of prefix states.", prefixes.max_bytes)
    yield gauge("featurewatch_prefix_states_used_bytes", "Bytes of prefix states that are stored.", prefixes.nbytes)
    yield gauge("featurewatch_prefix_states", "Prefixes whose detector state is stored.", prefixes.entries)
    yield counters(
        "featurewatch_prefix_lookups",
        "Look-ups for prefixes that the engine took from its cache: hit, partial (a shorter one is known) or miss.",
        ("outcome",),
        [(("hit",), prefixes.hits), (("partial",), prefixes.partial), (("miss",), prefixes.misses)],
    )
    yield counter("featurewatch_prefix_evictions", "Prefix states that made room for others.", prefixes.evictions)


def evidence_families(evidence: EvidenceStats) -> Iterator[Metric]:
    yield gauge("featurewatch_captures_running", "Captures of residual rows that run now.", evidence.running)
    yield counters(
        "featurewatch_evidence",
        "Captures for evidence by outcome: stored, or withheld because a policy forbids content.",
        ("outcome",),
        [(("stored",), evidence.stored), (("withheld",), evidence.withheld)],
    )
    yield counter(
        "featurewatch_evidence_faulty", "Captures of which rows could not be encoded; records say why.", evidence.faulty
    )
    yield counter("featurewatch_evidence_tokens", "Tokens in stored evidence, once per dictionary.", evidence.tokens)
    yield counter(
        "featurewatch_evidence_missing_rows",
        "Observed positions of which stored evidence has no row: overwritten in the recorder, or not arrived.",
        evidence.missing,
    )


def latency_family(name: str, help_text: str, histogram: LatencyHistogram) -> HistogramMetricFamily:
    lowest, highest = _FINE_SECONDS
    buckets = [
        ("+Inf" if bound == float("inf") else repr(bound), count)
        for bound, count in histogram.cumulative()
        if lowest <= bound <= highest or bound in _COARSE_SECONDS
    ]
    family = HistogramMetricFamily(name, help_text)
    family.add_metric([], buckets=buckets, sum_value=histogram.total_nanos / 1e9)
    return family
