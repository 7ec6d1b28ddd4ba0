"""A Hugging Face model cut after the deepest hook point, giving the rows of several hook points in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monitor.sae import HookPoint
from training.harvest.compute import forward_device, forward_dtype
from training.harvest.hooked_pass import HookedPass
from training.harvest.model_config import ModelConfig, text_part
from training.harvest.network import find_layers, load_cut_network
from training.harvest.sites import Place, candidates, choose, width_at

_PROBE_TOKENS = 16
_HALVES = ("attn_out", "mlp_out")


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
        self._model = model
        network = load_cut_network(model, self.dtype, max(point.layer for point in self.hook_points) + 1)
        self._layers = find_layers(network, model)
        self._network = network.to(self.device).eval()
        self._widths = {p: width_at(self._layers[p.layer], p, self.width, model) for p in self.hook_points}
        self._pass = HookedPass(self._network, self._places(), self.device)

    def width_of(self, point: HookPoint) -> int:
        return self._widths[point]

    def residuals(self, token_ids_bt: npt.NDArray[np.int64]) -> dict[HookPoint, Tensor]:
        """Rows per hook point, float32 [b, t, width] on the CPU. Padding must be on the right."""
        rows = self._pass.run(torch.from_numpy(token_ids_bt))
        return {point: rows[point].cpu().float() for point in self.hook_points}

    def _places(self) -> dict[Any, Place]:
        layers = {point: self._layers[point.layer] for point in self.hook_points}
        places: dict[Any, Place] = {
            point: candidates(layer, point, self._model)[0]
            for point, layer in layers.items()
            if point.site not in _HALVES
        }
        for number in sorted({point.layer for point in self.hook_points if point.site in _HALVES}):
            chosen = self._proven_halves(number)
            places |= {point: place for point, place in chosen.items() if point in self.hook_points}
        return places

    def _proven_halves(self, number: int) -> dict[HookPoint, Place]:
        """What both halves of a layer add to the stream; a short pass shows that it adds up."""
        points = [HookPoint(number, site) for site in ("resid_pre", *_HALVES, "resid_post")]
        found = {point: candidates(self._layers[number], point, self._model) for point in points}
        vocabulary = int(getattr(text_part(self._network.config), "vocab_size", 1))
        ids_bt = torch.randint(vocabulary, (1, _PROBE_TOKENS), generator=torch.Generator().manual_seed(0))
        places = {(point, index): place for point, tried in found.items() for index, place in enumerate(tried)}
        probe = HookedPass(self._network, places, self.device)
        rows = probe.run(ids_bt)
        probe.remove()
        seen = {point: [rows[point, index] for index in range(len(tried))] for point, tried in found.items()}
        return {point: found[point][index] for point, index in choose(seen, number, self._model, self.dtype).items()}
