"""Puts a tap into one worker. Everything that may refuse the start happens here, before the first request."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable
from typing import Any, Final

from monitor.tap.book import RequestBook
from monitor.tap.config import TapConfig, read_config
from monitor.tap.encode import make_encoder
from monitor.tap.engine import check_engine, describe_engine, num_layers, prefix_block_size, salt_compile_cache
from monitor.tap.external_id import external_id
from monitor.tap.link import Link
from monitor.tap.log import logger
from monitor.tap.op import OP_REVISION
from monitor.tap.outbox import Outbox
from monitor.tap.plan import ActivePlan, prepare_plan
from monitor.tap.publisher import Publisher
from monitor.tap.recorder import make_recorder
from monitor.tap.runner import RunnerAdapter
from monitor.tap.runner_v1 import RunnerV1
from monitor.tap.runner_v2 import RunnerV2
from monitor.tap.self_test import SelfTest, judge, make_pass
from monitor.tap.sites import Site, install_sites
from monitor.tap.stats import TapStats
from monitor.tap.tap import Tap
from monitor.v1 import engine_pb2, tap_pb2

CLOSE_SECONDS: Final = 1.5
"""Most time the engine's shutdown waits for the last frames."""


def attach(worker: Any, vllm_config: Any) -> None:
    """Called by the plugin once the worker has its model runner.

    Raises:
        FeaturewatchError: bad configuration or an engine set-up that the tap would not observe rightly; vLLM then
            refuses to start.
    """
    import vllm
    from vllm.distributed.parallel_state import get_pp_group, get_tp_group

    config = read_config(vllm_config.additional_config, os.environ)
    if config is None:
        return
    check_engine(vllm_config, vllm.__version__, config)
    if config.sidecar.tls:
        # Files that cannot be used refuse the start; afterwards each connection reads them anew.
        config.tls.credentials()
    layers = num_layers(vllm_config)
    for hook_point in config.hook_points:
        hook_point.require_in(layers, str(vllm_config.model_config.model))
    rank = int(get_tp_group().rank_in_group)
    if rank != 0:
        # The residual stream is the same on all ranks of a tensor-parallel group.
        return
    salt_compile_cache(vllm_config, config, OP_REVISION)
    stages = get_pp_group()
    adapter: RunnerAdapter
    if vllm_config.use_v2_model_runner:
        adapter = RunnerV2(worker.model_runner)
    else:
        adapter = RunnerV1(worker.model_runner, knows_outputs=stages.is_last_rank)
    engine = describe_engine(vllm_config, vllm.__version__, adapter.device.type, rank, int(stages.rank_in_group))
    workers = int(vllm_config.parallel_config.world_size_across_dp)

    def on_model_loaded() -> None:
        sites = _install(adapter, config, engine)
        if not sites:
            return
        publisher, serve = _start(adapter, config, engine, sites)
        _around_warm_up(worker, sites, workers, serve)

        def on_kv_cache(kv_cache_config: Any) -> None:
            # Not before: Hello tells the block size.
            engine.prefix_block_size = prefix_block_size(vllm_config, kv_cache_config)
            publisher.start()

        _once_kv_cache_is_made(worker, on_kv_cache)

    adapter.on_model_loaded(on_model_loaded)


def _once_kv_cache_is_made(worker: Any, callback: Callable[[Any], None]) -> None:
    original = worker.initialize_from_config

    def initialize_from_config(kv_cache_config: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(kv_cache_config, *args, **kwargs)
        # The class's method shows again.
        del worker.initialize_from_config
        callback(kv_cache_config)
        return result

    worker.initialize_from_config = initialize_from_config


def _around_warm_up(worker: Any, sites: list[Site], workers: int, serve: Callable[[SelfTest], None]) -> None:
    """Tests the hook points with the passes that vLLM makes before it serves, and then calls `serve`."""
    original = worker.compile_or_warm_up_model

    def compile_or_warm_up_model(*args: Any, **kwargs: Any) -> Any:
        no_pass = make_pass(worker, sites, workers)
        result = original(*args, **kwargs)
        # The class's method shows again.
        del worker.compile_or_warm_up_model
        serve(judge(sites, no_pass))
        return result

    worker.compile_or_warm_up_model = compile_or_warm_up_model


def _install(adapter: RunnerAdapter, config: TapConfig, engine: engine_pb2.EngineInfo) -> list[Site]:
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


def _start(
    adapter: RunnerAdapter, config: TapConfig, engine: engine_pb2.EngineInfo, sites: list[Site]
) -> tuple[Publisher, Callable[[SelfTest], None]]:
    """Makes the tap.

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
    randomized = os.environ.get("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", "0") in ("", "0")
    book = RequestBook(lambda request_id: external_id(request_id, randomized=randomized))

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
