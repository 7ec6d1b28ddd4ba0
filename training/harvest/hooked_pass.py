"""A forward pass that keeps the rows at some places and goes no further than it must."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from training.harvest.sites import Place


class _Enough(Exception):  # noqa: N818 – no error
    """All rows of a pass are there."""


class HookedPass:
    """Forward passes that keep the rows at some places and stop when they have them all."""

    def __init__(self, network: Any, places: dict[Any, Place], device: torch.device) -> None:
        self._network, self._device, self._wanted = network, device, len(places)
        self._rows: dict[Any, Tensor] = {}
        self._shape: tuple[int, ...] = ()
        self._hooks = [
            place.module.register_forward_pre_hook(self._before(key, place), with_kwargs=True)
            if place.is_input
            else place.module.register_forward_hook(self._after(key, place))
            for key, place in places.items()
        ]

    @torch.inference_mode()
    def run(self, token_ids_bt: Tensor) -> dict[Any, Tensor]:
        """Rows [b, t, width] per place, on the device."""
        self._rows, self._shape = {}, tuple(token_ids_bt.shape)
        with contextlib.suppress(_Enough):
            self._network(input_ids=token_ids_bt.to(self._device), use_cache=False)
        return self._rows

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, key: Any, place: Place) -> Any:
        def hook(_module: nn.Module, inputs: Any, named_inputs: dict[str, Any]) -> None:
            self._keep(key, place.rows(inputs, named_inputs, None, self._shape))

        return hook

    def _after(self, key: Any, place: Place) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._keep(key, place.rows((), {}, output, self._shape))

        return hook

    def _keep(self, key: Any, rows_btd: Tensor) -> None:
        self._rows[key] = rows_btd
        if len(self._rows) == self._wanted:
            raise _Enough
