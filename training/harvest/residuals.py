"""A Hugging Face model cut after the deepest hook point, giving residuals at several hook points in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from monitor.sae import HookPoint
from training.harvest.compute import forward_device, forward_dtype
from training.harvest.model_config import ModelConfig
from training.harvest.network import find_layers, load_cut_network


class ResidualModel:
    """Residual streams of a decoder-only model.

    Later layers and the language-model head are neither loaded nor run.

    Args:
        model: Hugging Face folder or id.
        hook_points: where to read; the deepest one sets the cut.
        dtype: auto, float32 or bfloat16.
        device: where it runs; by default on the GPU if there is one.

    Raises:
        FeaturewatchError: there is no such model, it lacks a hook point or its layers cannot be found.
    """

    def __init__(
        self, model: str, hook_points: Sequence[HookPoint], dtype: str = "auto", device: str | None = None
    ) -> None:
        self.device = torch.device(device) if device else forward_device()
        self.dtype = forward_dtype(dtype, self.device)
        self.hook_points = tuple(sorted(set(hook_points)))
        config = ModelConfig.read(model)
        config.require_hook_points(self.hook_points)
        self.width = config.width
        network = load_cut_network(model, self.dtype, self.hook_points[-1].layer + 1)
        layers = find_layers(network, model)
        self._network = network.to(self.device).eval()
        self._captured: dict[HookPoint, Tensor] = {}
        for hook_point in self.hook_points:
            layers[hook_point.layer].register_forward_hook(self._keep(hook_point))

    def _keep(self, hook_point: HookPoint) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._captured[hook_point] = output[0] if isinstance(output, tuple) else output

        return hook

    @torch.inference_mode()
    def residuals(self, token_ids_bt: npt.NDArray[np.int64]) -> dict[HookPoint, Tensor]:
        """Residual rows per hook point, float32 [b, t, d] on the CPU. Padding must be on the right."""
        self._captured.clear()
        self._network(input_ids=torch.from_numpy(token_ids_bt).to(self.device), use_cache=False)
        return {hook_point: rows_btd.float().cpu() for hook_point, rows_btd in self._captured.items()}
