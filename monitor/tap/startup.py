"""Moments in the start of a vLLM worker at which the tap has something to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monitor.tap.runner.instance_methods import InstanceMethods
from monitor.tap.self_test import SelfTest, judge, make_pass
from monitor.tap.sites import Site


def once_kv_cache_is_made(worker: Any, callback: Callable[[Any], None]) -> None:
    """`callback` gets the final KV cache configuration."""
    InstanceMethods(worker).run_after("initialize_from_config", lambda config, *args, **kwargs: callback(config))


def around_warm_up(worker: Any, sites: Sequence[Site], workers: int, serve: Callable[[SelfTest], None]) -> None:
    """Tests the hook points with the passes that vLLM makes before it serves, and then calls `serve`.

    Args:
        workers: of this engine.
    """
    methods = InstanceMethods(worker)
    original = worker.compile_or_warm_up_model

    def compile_or_warm_up_model(*args: Any, **kwargs: Any) -> Any:
        no_pass = make_pass(worker, sites, workers)
        result = original(*args, **kwargs)
        methods.restore("compile_or_warm_up_model")
        serve(judge(sites, no_pass))
        return result

    methods.wrap("compile_or_warm_up_model", compile_or_warm_up_model)
