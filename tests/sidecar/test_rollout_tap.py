"""A real tap's publisher and a real sidecar whose policies change all the time: every position is judged rightly."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rollout_kit import LOUDER, OTHER, reload
from session_calls import policies, record_of
from sidecar_kit import ENGINE, HOOKS, LOUD, WIDTH, World, channel_to, make_dictionary, running_sidecar

from monitor.rpc import Target, ints_to_bytes
from monitor.sae import HookPoint
from monitor.sidecar.server import Sidecar
from monitor.tap.encode import HostPayload
from monitor.tap.link import Link
from monitor.tap.outbox import Outbox
from monitor.tap.plan import ActivePlan, prepare_plan
from monitor.tap.publisher import Publisher
from monitor.tap.record import NO_PLAN, Begin, End, HostRows, Segment, Step
from monitor.tap.sites import Site
from monitor.tap.stats import TapStats
from monitor.v1.tap_pb2 import WatchPlan

RUNNING, LENGTH = 4, 24


@dataclass
class Engine:
    """Steps of a few requests each, in a thread, under the plan that came last before the step; as a real tap does."""

    socket: str
    sites: dict[str, Site] = field(init=False)
    residuals: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    stats: TapStats = field(default_factory=TapStats)
    outbox: Outbox = field(default_factory=lambda: Outbox(1 << 12, 1 << 26))
    plan: ActivePlan | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.sites = {
            hook: Site(HookPoint(int(hook.split(".")[1])), torch.zeros(8, WIDTH), torch.zeros(1), "", None)
            for hook in HOOKS
        }
        link = Link(
            target=Target(path=Path(self.socket)),
            tap_id="tap-1",
            engine=ENGINE,
            hook_points=[*HOOKS],
            outbox=self.outbox,
            stats=self.stats,
            prepare=self._prepare,
            on_plan=self._propose,
        )
        self.publisher = Publisher(link)
        self._proposed: ActivePlan | None = None
        self._rng = np.random.default_rng(7)

    def _prepare(self, message: WatchPlan) -> ActivePlan:
        return prepare_plan(message, self.sites)

    def _propose(self, plan: ActivePlan | None) -> None:
        self._proposed = plan

    def run(self) -> None:
        self.publisher.start()
        while self._proposed is None and not self.stopping.is_set():
            time.sleep(0.005)
        running: dict[int, int] = {}
        while running or not self.stopping.is_set():
            begun = [] if self.stopping.is_set() else range(len(self.residuals) + 1, len(self.residuals) + 2)
            for handle in begun if len(running) < RUNNING else ():
                self.residuals[handle] = self._rng.standard_normal((LENGTH, WIDTH), np.float32)
                prompt = ints_to_bytes(np.array([2, 2]))
                self.publisher.offer(Step(1, begins=[Begin(handle, f"r{handle}-x", f"r{handle}", prompt, handle, "")]))
                running[handle] = 0
            self.plan = self._proposed
            self._step(running)
            time.sleep(0.001)
        self.publisher.close(30)

    def _step(self, running: dict[int, int]) -> None:
        plan = self.plan
        segments = [Segment(handle, done, 2 if done == 0 else 1) for handle, done in running.items()]
        x_nd = np.concatenate([self.residuals[one.handle][one.first : one.first + one.length] for one in segments])
        step = Step(time.time_ns(), segments=segments, missing_because=NO_PLAN)
        if plan is not None:
            acts = [(hook.name, hook.encode(torch.from_numpy(x_nd)).numpy()) for hook in plan.hooks]
            step.payload = HostPayload(HostRows(np.full(len(x_nd), 2, np.int32), acts))
            step.plan_digest, step.plan_version = plan.digest, plan.version
        self.publisher.offer(step)
        for handle, first, count in segments:
            running[handle] = first + count
            if running[handle] == LENGTH:
                self.publisher.offer(Step(1, ends=[End(handle, running.pop(handle), b"", 2)]))


def newest_judges(sidecar: Sidecar) -> bool:
    """Whether a request has begun with the newest edition."""
    return any(request.plan is tap.judge.plan for tap in sidecar.taps for request in tap.judge.live)


async def test_every_row_of_a_real_tap_is_judged_in_the_right_column_through_reloads(world: World) -> None:
    engine = Engine(str(world.socket))
    texts = [LOUD, LOUDER, OTHER.replace("revision: 3", "revision: 4")]
    async with (
        running_sidecar(world.config(keep_share=1.0, watch_seconds=None)) as sidecar,
        channel_to(world.socket) as channel,
    ):
        thread = threading.Thread(target=engine.run)
        thread.start()
        try:
            async with asyncio.timeout(120):
                for turn in range(9):
                    (world.policies / "loud.yaml").write_text(texts[(turn + 1) % 3])
                    assert not (await reload(channel)).problems
                    while not await sidecar.taps.between_frames(lambda: newest_judges(sidecar)):
                        await asyncio.sleep(0.005)
        finally:
            engine.stopping.set()
            await asyncio.to_thread(thread.join, 60)
        status = (await policies(channel)).taps[0]
        records = {handle: await record_of(channel, f"r{handle}") for handle in engine.residuals}
        watched = next(iter(sidecar.taps)).judge.editions.watch.version
    assert not thread.is_alive()
    assert (status.errors, status.coverage.dropped, status.coverage.unseen) == (0, 0, 0)
    assert status.coverage.observed == LENGTH * len(engine.residuals)
    assert watched > 1, "the tap went over to another plan"

    sae, revisions = make_dictionary(5), set[str]()
    for handle, record in records.items():
        x_nd = engine.residuals[handle].astype(np.float64)
        assert record.summary.coverage.observed == LENGTH
        (revision,) = {entry.revision for entry in record.provenance if entry.name == "loud"}
        revisions.add(revision)
        scores = np.array([list(token.token_scores) for token in record.tokens])[1:]
        columns = list(record.score_columns)
        if revision == "4":
            pre_n = x_nd @ sae.w_enc_md[2].astype(np.float64) + float(sae.b_enc_m[2])
            threshold = float(sae.activation.threshold_m[2])  # type: ignore[union-attr]
            expected, name = np.where((pre_n > threshold) & (pre_n > 0), pre_n, 0.0), "loud/latent"
        else:
            expected, name = x_nd @ np.arange(WIDTH) - 0.25, "loud/dense"
        np.testing.assert_allclose(scores[:, columns.index(name)], expected[1:], rtol=1e-4, atol=1e-4)
    assert revisions == {"2", "3", "4"}
