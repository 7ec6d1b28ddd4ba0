"""What the adapters of both model runners share: both runners keep model, sizes and device under the same names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from monitor.errors import FeaturewatchError
from monitor.tap.runner.instance_methods import InstanceMethods
from monitor.tap.tap import Tap


class RunnerBase:
    """Adapter of one model runner of vLLM's; only this instance is changed, never its class.

    Raises:
        FeaturewatchError: the runner lacks something that the tap needs.
    """

    name: ClassVar[str]
    needed: ClassVar[Sequence[str]]
    """Attributes that the runner must have."""
    drafter_attribute: ClassVar[str]

    def __init__(self, runner: Any) -> None:
        missing = [name for name in self.needed if not hasattr(runner, name)]
        if missing:
            raise FeaturewatchError(
                f"model runner {type(runner).__module__}.{type(runner).__name__} without {', '.join(missing)}",
                f"the tap knows vLLM's {self.name.upper()} model runner",
                "serve with a vLLM version that the tap was proven on (see docs/tap.md)",
            )
        self._runner = runner
        self._methods = InstanceMethods(runner)
        self._tap: Tap | None = None

    @property
    def model(self) -> nn.Module:
        model: nn.Module = self._runner.model
        return model

    @property
    def drafter(self) -> nn.Module | None:
        model = getattr(getattr(self._runner, self.drafter_attribute, None), "model", None)
        return model if isinstance(model, nn.Module) else None

    @property
    def max_rows(self) -> int:
        return int(self._runner.max_num_tokens)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._runner.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self._runner.device
        return device

    def on_model_loaded(self, callback: Callable[[], None]) -> None:
        self._methods.run_after("load_model", lambda *args, **kwargs: callback())

    def detach(self) -> None:
        self._tap = None
        self._methods.restore_all(but="shutdown")

    def _wrap_shutdown(self, on_shutdown: Callable[[], None]) -> None:
        shutdown = self._runner.shutdown

        def wrapped_shutdown(*args: Any, **kwargs: Any) -> Any:
            on_shutdown()
            return shutdown(*args, **kwargs)

        self._methods.wrap("shutdown", wrapped_shutdown)
