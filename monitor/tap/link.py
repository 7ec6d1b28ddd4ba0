"""What outlives a connection to the sidecar."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from monitor.rpc import ClientTls, Target
from monitor.tap.log import RateLimitedLog, logger
from monitor.tap.outbox import Outbox
from monitor.tap.plan import ActivePlan
from monitor.tap.recorder.recorder import FlightRecorder
from monitor.tap.stats import TapStats
from monitor.v1 import engine_pb2, tap_pb2


@dataclass
class Link:
    """Who talks to whom, about what, and the lock around it.

    Attributes:
        prepare: reads a WatchPlan; raises FeaturewatchError or WireFormatError.
        on_plan: called in the publisher's thread with each new plan, or None when the sidecar's plan cannot be served.
        tls: what this side trusts and shows, where the target is a `tls:` address.
        recorder: what captures are answered from; None when it is off.
        memory: what the tap holds.
        cores: where the publisher's threads may run; empty: wherever this thread may.
        changed: guards `outbox` and wakes whoever waits for it.
        closing: set when the engine stops.
    """

    target: Target
    tap_id: str
    engine: engine_pb2.EngineInfo
    hook_points: list[str]
    outbox: Outbox
    stats: TapStats
    prepare: Callable[[tap_pb2.WatchPlan], ActivePlan]
    on_plan: Callable[[ActivePlan | None], None]
    tls: ClientTls = field(default_factory=ClientTls)
    recorder: FlightRecorder | None = None
    memory: tap_pb2.TapMemory = field(default_factory=tap_pb2.TapMemory)
    cores: set[int] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)
    closing: threading.Event = field(default_factory=threading.Event)
    log: RateLimitedLog = field(default_factory=RateLimitedLog)
    _summarised: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))

    def log_summary(self, every_seconds: float = 0.0) -> None:
        """Logs the counters, if there were steps since the last time and that is `every_seconds` ago."""
        then, steps = self._summarised
        if self.stats.steps == steps or time.monotonic() - then < every_seconds:
            return
        self._summarised = (time.monotonic(), self.stats.steps)
        logger.info("featurewatch: %s", self.stats.summary())
