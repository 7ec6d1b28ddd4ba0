"""What the plugin does in the process of vLLM's scheduler (`vllm/v1/core/sched/scheduler.py`), proven on 0.32.

Every request that is announced to workers gets its labels. Prefix-cache look-ups, the local one and the KV connector's,
go through a gate, as long as a policy asks for it. All wrappers lie on instances; the classes stay as they are.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Final

from monitor.errors import FeaturewatchError
from monitor.rpc.channels import open_channel
from monitor.tap.config import read_config
from monitor.tap.engine import describe_engine, prefix_block_size
from monitor.tap.log import RateLimitedLog, logger
from monitor.tap.row_log.config import RowLogConfig
from monitor.tap.scheduler.gate import PrefixGate
from monitor.tap.scheduler.labels import attach_labels, labels_of
from monitor.tap.scheduler.watch import PrefixWatch
from monitor.tap.tap import DETACH_AFTER_ERRORS

CLOSE_SECONDS: Final = 1.0
_NEEDED: Final = ("schedule", "shutdown", "requests", "kv_cache_manager", "connector", "kv_cache_config")


class Wrappers:
    """Methods put over an instance's own ones. What fails in them is counted and logged, the engine goes on as without
    them, and after `DETACH_AFTER_ERRORS` failures in a row they are taken off."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._log = RateLimitedLog()
        self._wrapped: list[tuple[Any, str]] = []
        self._errors_in_a_row = 0
        self.errors = 0

    def wrap(self, holder: Any, name: str, wrapper: Callable[..., Any]) -> None:
        setattr(holder, name, wrapper)
        self._wrapped.append((holder, name))

    def guard(self, work: Callable[..., Any], *args: Any) -> Any:
        """`work(*args)`, or None when it raised."""
        try:
            result = work(*args)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the scheduler must go on
            self.errors += 1
            self._errors_in_a_row += 1
            self._log.warn_about(self._what, f"{self._what} failed; the engine is not affected", exception=error)
            if self._errors_in_a_row == DETACH_AFTER_ERRORS:
                logger.error("featurewatch: %d errors in a row; %s stops", self._errors_in_a_row, self._what)
                self.detach()
            return None
        self._errors_in_a_row = 0
        return result

    def detach(self) -> None:
        """The class's methods show again."""
        while self._wrapped:
            holder, name = self._wrapped.pop()
            delattr(holder, name)


def wrap_schedule(scheduler: Any) -> Wrappers:
    """Every request that `scheduler` announces to workers carries its labels."""
    wrappers = Wrappers("labelling requests")
    schedule = scheduler.schedule

    def label(output: Any) -> None:
        for new in output.scheduled_new_reqs:
            attach_labels(new, labels_of(scheduler.requests[new.req_id]))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        output = schedule(*args, **kwargs)
        wrappers.guard(label, output)
        return output

    wrappers.wrap(scheduler, "schedule", wrapped)
    return wrappers


def wrap_lookups(scheduler: Any, gate: PrefixGate) -> Wrappers:
    """Cached prefixes, in the local cache and in the KV connector's, are used as far as `gate` permits it."""
    wrappers = Wrappers("asking for known prefixes")
    manager, connector = scheduler.kv_cache_manager, scheduler.connector
    for name in ("get_computed_blocks", "get_computed_blocks_for_connector"):
        wrappers.wrap(manager, name, _gated_lookup(manager, getattr(manager, name), gate, wrappers))
    if connector is not None:
        match = connector.get_num_new_matched_tokens
        wrappers.wrap(connector, "get_num_new_matched_tokens", _gated_match(match, gate, wrappers))
    return wrappers


def _gated_lookup(manager: Any, look_up: Callable[[Any], Any], gate: PrefixGate, wrappers: Wrappers) -> Any:
    """`look_up` returns (blocks, tokens, a boundary to keep); the connector's variant also whether groups differ."""

    def wrapped(request: Any) -> Any:
        gate.reconsider(request)
        found = look_up(request)
        if not found[1]:
            return found
        usable = wrappers.guard(gate.usable, request, found[1])
        if usable is None or usable == found[1]:
            return found
        blocks = wrappers.guard(_cached_up_to, manager, request, usable) if usable else None
        if blocks is None:
            gate.refuse(request)
            blocks, usable = manager.empty_kv_cache_blocks, 0
        return blocks, usable, 0, *(False for _ in found[3:])

    return wrapped


def _cached_up_to(manager: Any, request: Any, tokens: int) -> Any:
    """Blocks of exactly so many cached tokens, as `KVCacheManager.get_computed_blocks` finds them; None when a hit
    cannot end there. Cutting off a longer hit would not do: a sliding window holds other blocks then."""
    blocks, found, _ = manager.coordinator.find_longest_cache_hit(request.block_hashes, tokens)
    return manager.create_kv_cache_blocks(blocks) if found == tokens else None


def _gated_match(match: Callable[..., Any], gate: PrefixGate, wrappers: Wrappers) -> Any:
    def wrapped(request: Any, num_computed_tokens: int, *args: Any, **kwargs: Any) -> Any:
        tokens, asynchronous = match(request, num_computed_tokens, *args, **kwargs)
        # Of a request that skips the cache, the scheduler drops the connector's tokens by itself.
        if not tokens or gate.refused(request):
            return tokens, asynchronous
        end = num_computed_tokens + tokens
        usable = wrappers.guard(gate.usable, request, end)
        return (tokens, asynchronous) if usable is None or usable == end else (0, False)

    return wrapped


def attach_scheduler(scheduler: Any, vllm_config: Any) -> None:
    """Called by the plugin once a scheduler is made. Raises FeaturewatchError: vLLM then refuses to start."""
    import vllm

    config = read_config(vllm_config.additional_config, os.environ)
    if config is None or isinstance(config, RowLogConfig):
        # Recorded rows go with no labels, and without a prefix cache there is nothing to ask about.
        return
    missing = [name for name in _NEEDED if not hasattr(scheduler, name)]
    if missing:
        raise FeaturewatchError(
            f"scheduler {type(scheduler).__module__}.{type(scheduler).__name__} without {', '.join(missing)}",
            "the tap knows vLLM's V1 scheduler",
            "serve with a vLLM version that the tap was proven on (see docs/tap.md)",
        )
    wrap_schedule(scheduler)
    if not (scheduler.kv_cache_manager.enable_caching or scheduler.connector is not None):
        return
    engine = describe_engine(vllm_config, vllm.__version__, str(vllm_config.device_config.device_type), 0)
    engine.prefix_block_size = prefix_block_size(vllm_config, scheduler.kv_cache_config)

    watch = PrefixWatch(lambda: open_channel(config.sidecar, config.tls), engine)
    # Where the engine computes the end of each hit again (a window of it), the hit does not end where it seems to.
    block_size = 0 if getattr(scheduler, "prefix_replay_tokens", 0) else engine.prefix_block_size
    gate = PrefixGate(watch, engine, block_size)
    wrap_lookups(scheduler, gate)
    shutdown = scheduler.shutdown

    def wrapped_shutdown() -> None:
        watch.close(CLOSE_SECONDS)
        logger.info("featurewatch: %s", gate.stats.summary())
        shutdown()

    scheduler.shutdown = wrapped_shutdown
    # An engine within a process that lives on may be dropped without a shutdown.
    weakref.finalize(scheduler, watch.close, 0.0)
    watch.start()
