"""A Hugging Face model cut after the deepest hook point, giving the rows of several hook points in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monitor.sae import HookPoint
from training.harvest.compute import forward_device, forward_dtype
from training.harvest.hooked_pass import HookedPass
from training.harvest.model_config import ModelConfig
from training.harvest.network import find_layers, load_cut_network
from training.harvest.places import find_places
from training.harvest.sites import width_at


class ResidualModel:
    """Rows of a decoder-only model.

    Later layers and the language-model head are neither loaded nor run, and what the deepest layer does after its last
    hook point is not run.

    Args:
        model: Hugging Face folder or id.
        hook_points: where to read; the deepest one sets the cut.
        dtype: auto, float32 or bfloat16.
        device: where it runs; by default on the GPU if there is one.

    Raises:
        FeaturewatchError: there is no such model, it lacks a hook point, or its layers or a site cannot be found.
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
        network = load_cut_network(model, self.dtype, max(point.layer for point in self.hook_points) + 1)
        layers = find_layers(network, model)
        self._network = network.to(self.device).eval()
        self._widths = {p: width_at(layers[p.layer], p, self.width, model) for p in self.hook_points}
        places = find_places(self._network, layers, self.hook_points, model)
        self._pass = HookedPass(self._network, places, self.device)

    def width_of(self, point: HookPoint) -> int:
        return self._widths[point]

    def residuals(
        self, token_ids_bt: npt.NDArray[np.int64], lengths_b: npt.NDArray[np.int64] | None = None
    ) -> dict[HookPoint, Tensor]:
        """Rows per hook point, float32 [b, t, width] on the CPU. Padding must be on the right; it is computed too."""
        del lengths_b
        rows = self._pass.run(torch.from_numpy(token_ids_bt))
        return {point: rows[point].cpu().float() for point in self.hook_points}
