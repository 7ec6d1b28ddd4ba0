"""The parts of one tap, put together once the weights are loaded."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable
from typing import Final

from monitor.tap.book import RequestBook
from monitor.tap.config import TapConfig
from monitor.tap.cores import spare_cores
from monitor.tap.encode import make_encoder
from monitor.tap.external_id import external_id
from monitor.tap.link import Link
from monitor.tap.log import logger
from monitor.tap.outbox import Outbox
from monitor.tap.plan import ActivePlan, prepare_plan
from monitor.tap.publisher import Publisher
from monitor.tap.recorder.recorder import make_recorder
from monitor.tap.row_log.config import RowLogConfig
from monitor.tap.runner.adapter import RunnerAdapter
from monitor.tap.self_test import SelfTest
from monitor.tap.sites import Site, install_sites
from monitor.tap.stats import TapStats
from monitor.tap.tap import Tap
from monitor.v1 import engine_pb2, tap_pb2

CLOSE_SECONDS: Final = 1.5
"""Most time the engine's shutdown waits for the last frames."""


def install(adapter: RunnerAdapter, config: TapConfig | RowLogConfig, engine: engine_pb2.EngineInfo) -> list[Site]:
    """Taps what this worker holds of the configured hook points, and says so in the log."""
    sites = install_sites(
        adapter.model,
        config.hook_points,
        num_layers=engine.num_layers,
        width=engine.hidden_size,
        max_rows=adapter.max_rows,
        dtype=adapter.dtype,
        device=adapter.device,
        model_name=engine.model,
        drafter=adapter.drafter,
    )
    stage = f"pipeline rank {engine.pipeline_parallel_rank} of {engine.pipeline_parallel_size}"
    for site in sites:
        logger.info("featurewatch: tapping %s at the %s, %s", site.hook_point, site.where, stage)
    if not sites:
        points = ", ".join(str(point) for point in config.hook_points)
        logger.info("featurewatch: nothing of %s is on %s, so it has no tap", points, stage)
    return sites


def make_book() -> RequestBook:
    """Books that know a request by the client's id too."""
    randomized = os.environ.get("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", "0") in ("", "0")
    return RequestBook(lambda request_id: external_id(request_id, randomized=randomized))


def start(
    adapter: RunnerAdapter, config: TapConfig, engine: engine_pb2.EngineInfo, sites: list[Site], *, alone: bool
) -> tuple[Publisher, Callable[[SelfTest], None]]:
    """Makes the tap.

    Args:
        alone: no other worker is part of this engine.

    Returns:
        The publisher, whose thread is to be started, and what to call when the engine begins to serve.
    """
    recorder = make_recorder(sites, config.recorder_mib)
    by_name = {str(site.hook_point): site for site in sites}
    memory = tap_pb2.TapMemory(
        buffer_bytes=sum(site.buffer_nd.nbytes for site in sites),
        recorder_bytes=recorder.nbytes if recorder is not None else 0,
        recorder_rows=recorder.rows if recorder is not None else 0,
        queue_bytes=config.queue_mib << 20,
    )
    stats = TapStats()
    book = make_book()

    def on_plan(plan: ActivePlan | None) -> None:
        tap.propose(plan)

    def leave() -> None:
        """After repeated failure: the engine gets its own methods back; the sidecar sees the stream end."""
        adapter.detach()
        for site in sites:
            site.handle.remove()
        try:
            tap.end_all(adapter.outputs)
        except Exception:  # noqa: BLE001 -- the failure that made the tap leave may strike here again
            logger.exception("featurewatch: live requests could not be closed")
        threading.Thread(target=publisher.close, args=(CLOSE_SECONDS,), daemon=True).start()

    def shut_down() -> None:
        tap.guard(tap.end_all, adapter.outputs)
        tap.guard(publisher.close, CLOSE_SECONDS)

    publisher = Publisher(
        Link(
            target=config.sidecar,
            tls=config.tls,
            tap_id=f"{engine.name}-{os.getpid()}-{uuid.uuid4().hex[:12]}",
            engine=engine,
            hook_points=list(by_name),
            outbox=Outbox(config.queue_frames, config.queue_mib << 20),
            stats=stats,
            prepare=lambda message: prepare_plan(message, by_name),
            on_plan=on_plan,
            recorder=recorder,
            memory=memory,
            cores=spare_cores() if alone and engine.device == "cpu" else set(),
        )
    )
    tap = Tap(make_encoder(sites), book, publisher, stats, leave, recorder=recorder)

    def serve(self_test: SelfTest) -> None:
        # Not before: vLLM's warm-up of the V2 runner looks like requests.
        stats.self_test = self_test
        failed = self_test.outcome == tap_pb2.SelfTest.OUTCOME_FAILED
        logger.log(logging.ERROR if failed else logging.INFO, "featurewatch: self-test %s", self_test)
        adapter.attach(tap, shut_down)

    logger.info(
        "featurewatch: sidecar %s, buffers %.1f MiB, flight recorder %.1f MiB (%d rows per hook point), "
        "queue at most %d frames or %d MiB",
        config.sidecar,
        memory.buffer_bytes / 2**20,
        memory.recorder_bytes / 2**20,
        memory.recorder_rows,
        config.queue_frames,
        config.queue_mib,
    )
    return publisher, serve
