"""Lets vLLM's V2 model runner run where no Triton backend is: its kernels go through Triton's own interpreter.

vLLM's CPU build takes the V2 runner when Triton has a backend named cpu; such a build of Triton is not on PyPI. With
TRITON_INTERPRET=1 no backend is ever asked to compile anything, so an empty one is enough.
"""

from __future__ import annotations

import os
from typing import Any

ENVIRONMENT = {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
"""For the process that calls `install`."""


class _Driver:
    @staticmethod
    def is_active() -> bool:
        return True


ASYNCHRONOUS = "TEST_ASYNCHRONOUS_CPU"
"""In the environment of a process that calls `install`: asynchronous scheduling, which vLLM switches off on a CPU. Its
engine core then decides on the next step before it looks at the output of this one; on a CPU that output is there."""


def install() -> None:
    """To be called before vLLM is imported."""
    import numpy as np
    from triton.backends import Backend, backends
    from triton.runtime import interpreter

    backends["cpu"] = Backend(compiler=None, driver=_Driver)
    load, store = interpreter.InterpreterBuilder.create_masked_load, interpreter.InterpreterBuilder.create_masked_store

    def as_bool(mask: Any) -> Any:
        """The interpreter wants a mask of bool; compiled kernels take any integer."""
        if mask.data.dtype == np.bool_:
            return mask
        return interpreter.TensorHandle(mask.data.astype(np.bool_), mask.dtype)

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        return load(self, pointers, as_bool(mask), *rest)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return store(self, pointers, value, as_bool(mask), *rest)

    interpreter.InterpreterBuilder.create_masked_load = create_masked_load
    interpreter.InterpreterBuilder.create_masked_store = create_masked_store
    if ASYNCHRONOUS in os.environ:
        _schedule_asynchronously()


def _schedule_asynchronously() -> None:
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        check(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
