"""One tap as the sidecar knows it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from monitor.sidecar.downlink import Downlink
from monitor.sidecar.judge import TapJudge
from monitor.sidecar.plan import TapPlan, model_name
from monitor.sidecar.tap_health import TapHealth
from monitor.v1.policies_pb2 import TapStatus
from monitor.v1.tap_pb2 import Hello

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Tap:
    """What it said of itself and its judge; while there is a stream, its reading task and its way down."""

    hello: Hello
    session_id: str
    judge: TapJudge
    reader: asyncio.Task[None] | None = None
    downlink: Downlink | None = None
    expiry: asyncio.TimerHandle | None = None
    health: TapHealth = field(init=False)

    def __post_init__(self) -> None:
        self.health = TapHealth(_log, self.hello.tap_id)

    @property
    def plan(self) -> TapPlan:
        return self.judge.plan

    def status(self) -> TapStatus:
        return TapStatus(
            tap_id=self.hello.tap_id,
            model=model_name(self.hello.engine),
            hook_points=self.hello.hook_points,
            connected=self.reader is not None,
            frames=self.judge.totals.frames,
            rows=self.judge.totals.rows,
            steps=self.health.last.steps,
            steps_fired=self.health.last.steps_fired,
            dropped_rows=self.health.last.dropped_rows,
            errors=self.health.last.errors + self.judge.problems.total,
            unreported_requests=self.health.last.unreported_requests,
            coverage=self.judge.totals.message(),
            engine=self.hello.engine,
            heartbeat=self.health.last,
            memory=self.hello.memory,
            unserved=self.plan.unserved.values(),
        )
