"""The entry point that vLLM calls in each of its processes (`vllm.general_plugins`).

It imports almost nothing and changes one method: a worker that has made its model runner reads the configuration and,
only if there is one, attaches a tap to that runner. Without configuration nothing else happens.
"""

from __future__ import annotations

import functools
import os
from typing import Any

_ENVIRONMENT = ("FEATUREWATCH_SIDECAR", "FEATUREWATCH_HOOK_POINTS")


def register() -> None:
    """Wraps `WorkerWrapperBase.init_device` once per process; may be called again."""
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    original = WorkerWrapperBase.init_device
    if getattr(original, "_featurewatch", False):
        return

    @functools.wraps(original)
    def init_device(self: Any) -> None:
        original(self)
        additional = self.vllm_config.additional_config
        configured = isinstance(additional, dict) and "featurewatch" in additional
        if configured or any(os.environ.get(name) for name in _ENVIRONMENT):
            from monitor.tap.attach import attach

            attach(self.worker, self.vllm_config)

    init_device._featurewatch = True  # type: ignore[attr-defined]
    WorkerWrapperBase.init_device = init_device
