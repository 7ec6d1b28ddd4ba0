"""The sidecar's counters at one moment."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from monitor.audit import AuditWriter
from monitor.emit import Delivery
from monitor.emit.delivery import DeliveryStats
from monitor.sidecar.evidence.desk import EvidenceStats
from monitor.sidecar.history import HistoryStats
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.metrics.totals import Totals
from monitor.sidecar.policy_status import PolicyStanding, policy_standings
from monitor.sidecar.prefix.states import PrefixStats
from monitor.sidecar.rollout import Rollout
from monitor.sidecar.taps import Taps
from monitor.v1.policies_pb2 import TapStatus


@dataclass(frozen=True)
class Snapshot:
    """What was judged is from between two frames, so its sums agree.

    Attributes:
        taken: of `time.monotonic`, seconds.
        taps: those that are known now, by tap id.
        deliveries: by the name of the sink.
        correlation_groups_evicted, notifications: by policy.
        policies: those that are loaded.
        reloads: of policies, by outcome.
        policy_problems: of the policy files that were read last.
    """

    taken: float = field(default_factory=time.monotonic)
    totals: Totals = field(default_factory=Totals)
    live_requests: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    ledger: PolicyLedger = field(default_factory=PolicyLedger)
    taps: tuple[TapStatus, ...] = ()
    deliveries: tuple[tuple[str, DeliveryStats], ...] = ()
    records_written: int = 0
    records_lost: int = 0
    history: HistoryStats = field(default_factory=lambda: HistoryStats(0, 0, 0))
    evidence: EvidenceStats = field(default_factory=EvidenceStats)
    correlation_groups_evicted: Counter[str] = field(default_factory=Counter)
    notifications: Counter[str] = field(default_factory=Counter)
    policies: tuple[PolicyStanding, ...] = ()
    reloads: Counter[str] = field(default_factory=Counter)
    policy_problems: int = 0
    prefixes: PrefixStats = field(default_factory=lambda: PrefixStats(0, 0, 0, 0, 0, 0, 0))


def take_snapshot(
    taps: Taps,
    deliveries: Sequence[Delivery],
    writer: AuditWriter,
    notifications: Counter[str],
    rollout: Rollout,
) -> Snapshot:
    """To be called between frames; copies numbers only, so that judging goes on at once."""
    known = sorted(taps, key=lambda tap: tap.hello.tap_id)
    return Snapshot(
        totals=taps.totals(),
        live_requests=sum(tap.judge.num_live for tap in known),
        problems=taps.problems(),
        ledger=taps.ledger.copy(),
        taps=tuple(tap.status() for tap in known),
        deliveries=tuple((delivery.name, delivery.stats) for delivery in deliveries),
        records_written=writer.written,
        records_lost=writer.lost,
        history=taps.history.stats(),
        evidence=taps.evidence.stats,
        correlation_groups_evicted=Counter(taps.correlations.evicted),
        notifications=Counter(notifications),
        policies=policy_standings(rollout.current, taps),
        reloads=Counter(rollout.reloads),
        policy_problems=len(rollout.refused),
        prefixes=taps.prefix_states.stats(),
    )
