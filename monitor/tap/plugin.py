"""The entry point that vLLM calls in each of its processes (`vllm.general_plugins`).

It imports almost nothing and changes two methods: a worker that has made its model runner, and a scheduler that is
made, read the configuration, and only if there is one, something of ours is attached to that instance. Without
configuration nothing else happens.
"""

from __future__ import annotations

import functools
import os
from typing import Any

_ENVIRONMENT = ("FEATUREWATCH_SIDECAR", "FEATUREWATCH_RECORD_TO", "FEATUREWATCH_HOOK_POINTS")


def register() -> None:
    """Wraps `WorkerWrapperBase.init_device` and `Scheduler.__init__` once per process; may be called again."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    if getattr(WorkerWrapperBase.init_device, "_featurewatch", False):
        return
    _wrap_worker(WorkerWrapperBase)
    _wrap_scheduler(Scheduler)


def _wrap_worker(wrapper_class: Any) -> None:
    original = wrapper_class.init_device

    @functools.wraps(original)
    def init_device(self: Any) -> None:
        original(self)
        if _configured(self.vllm_config):
            from monitor.tap.attach import attach

            attach(self.worker, self.vllm_config)

    init_device._featurewatch = True  # type: ignore[attr-defined]
    wrapper_class.init_device = init_device


def _wrap_scheduler(scheduler_class: Any) -> None:
    """Subclasses (asynchronous scheduling, `--scheduler-cls`) call the wrapped constructor."""
    original = scheduler_class.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 -- it is one
        original(self, *args, **kwargs)
        if _configured(self.vllm_config):
            from monitor.tap.scheduler.side import attach_scheduler

            attach_scheduler(self, self.vllm_config)

    scheduler_class.__init__ = __init__


def _configured(vllm_config: Any) -> bool:
    additional = vllm_config.additional_config
    configured = isinstance(additional, dict) and "featurewatch" in additional
    return configured or any(os.environ.get(name) for name in _ENVIRONMENT)
