"""Puts a tap into one worker. Everything that may refuse the start happens here, before the first request."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from typing import Any, Final

from monitor.tap.book import RequestBook
from monitor.tap.config import TapConfig, read_config
from monitor.tap.connection import Link
from monitor.tap.encode import make_encoder
from monitor.tap.engine import check_engine, describe_engine, num_layers, prefix_block_size, salt_compile_cache
from monitor.tap.external_id import external_id
from monitor.tap.log import logger
from monitor.tap.op import OP_REVISION
from monitor.tap.outbox import Outbox
from monitor.tap.plan import ActivePlan, prepare_plan
from monitor.tap.publisher import Publisher
from monitor.tap.runner import RunnerAdapter
from monitor.tap.runner_v1 import RunnerV1
from monitor.tap.sites import install_sites
from monitor.tap.stats import TapStats
from monitor.tap.tap import Tap

CLOSE_SECONDS: Final = 1.5
"""Most time the engine's shutdown waits for the last frames."""


def attach(worker: Any, vllm_config: Any) -> None:
    """Called by the plugin once the worker has its model runner.

    Raises:
        FeaturewatchError: bad configuration or an engine set-up that the tap would not observe rightly; vLLM then
            refuses to start.
    """
    import vllm
    from vllm.distributed.parallel_state import get_tp_group

    config = read_config(vllm_config.additional_config, os.environ)
    if config is None:
        return
    check_engine(vllm_config, vllm.__version__, config)
    layers = num_layers(vllm_config)
    for hook_point in config.hook_points:
        hook_point.require_in(layers, str(vllm_config.model_config.model))
    rank = int(get_tp_group().rank_in_group)
    if rank != 0:
        # The residual stream is the same on all ranks of a tensor-parallel group.
        return
    salt_compile_cache(vllm_config, config, OP_REVISION)
    adapter = RunnerV1(worker.model_runner)
    engine = describe_engine(vllm_config, vllm.__version__, adapter.device.type, rank)

    def on_model_loaded() -> None:
        publisher = _start(adapter, config, engine)

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


def _start(adapter: RunnerAdapter, config: TapConfig, engine: Any) -> Publisher:
    """Everything but the publisher's thread."""
    sites = install_sites(
        adapter.model,
        config.hook_points,
        num_layers=engine.num_layers,
        width=engine.hidden_size,
        max_rows=adapter.max_rows,
        dtype=adapter.dtype,
        device=adapter.device,
        model_name=engine.model,
    )
    by_name = {str(site.hook_point): site for site in sites}
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
            tap_id=f"{engine.name}-{os.getpid()}-{uuid.uuid4().hex[:12]}",
            engine=engine,
            hook_points=list(by_name),
            outbox=Outbox(config.queue_frames, config.queue_mib << 20),
            stats=stats,
            prepare=lambda message: prepare_plan(message, by_name),
            on_plan=on_plan,
        )
    )
    tap = Tap(make_encoder(sites), book, publisher, stats, leave)
    adapter.attach(tap, shut_down)
    for site in sites:
        logger.info("featurewatch: tapping %s at the %s", site.hook_point, site.where)
    logger.info(
        "featurewatch: sidecar %s, buffers %.1f MiB, queue at most %d frames or %d MiB",
        config.sidecar,
        sum(site.buffer_nd.nbytes for site in sites) / 2**20,
        config.queue_frames,
        config.queue_mib,
    )
    return publisher
