"""Puts a tap into one worker. Everything that may refuse the start happens here, before the first request."""

from __future__ import annotations

import os
from typing import Any

from monitor.tap.assembly import install, start
from monitor.tap.config import TapConfig, read_config
from monitor.tap.engine import check_engine, describe_engine, num_layers, prefix_block_size, salt_compile_cache
from monitor.tap.op import OP_REVISION
from monitor.tap.row_log.assembly import start_row_log
from monitor.tap.row_log.config import RowLogConfig
from monitor.tap.row_log.writer import claim_folder
from monitor.tap.runner.adapter import RunnerAdapter
from monitor.tap.runner.v1 import RunnerV1
from monitor.tap.runner.v2 import RunnerV2
from monitor.tap.startup import around_warm_up, once_kv_cache_is_made


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
    if isinstance(config, TapConfig) and config.sidecar.tls:
        # Files that cannot be used refuse the start; afterwards each connection reads them anew.
        config.tls.credentials()
    layers = num_layers(vllm_config)
    for hook_point in config.hook_points:
        hook_point.require_in(layers, str(vllm_config.model_config.model))
    rank = int(get_tp_group().rank_in_group)
    if rank != 0:
        # The residual stream is the same on all ranks of a tensor-parallel group.
        return
    if isinstance(config, RowLogConfig):
        claim_folder(config)
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
        sites = install(adapter, config, engine)
        if not sites:
            return
        if isinstance(config, RowLogConfig):
            around_warm_up(worker, sites, workers, start_row_log(adapter, config, engine, sites))
            return
        publisher, serve = start(adapter, config, engine, sites, alone=workers == 1)
        around_warm_up(worker, sites, workers, serve)

        def on_kv_cache(kv_cache_config: Any) -> None:
            # Not before: Hello tells the block size.
            engine.prefix_block_size = prefix_block_size(vllm_config, kv_cache_config)
            publisher.start()

        once_kv_cache_is_made(worker, on_kv_cache)

    adapter.on_model_loaded(on_model_loaded)
