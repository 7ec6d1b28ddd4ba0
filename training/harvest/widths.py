"""How wide the rows of each hook point are, before any weights are loaded."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from monitor.sae import HookPoint
from training.harvest.loading import load_quietly
from training.harvest.model_config import ModelConfig, cut
from training.harvest.network import find_layers
from training.harvest.sites import width_at


def site_widths(config: ModelConfig, hook_points: Sequence[HookPoint]) -> dict[HookPoint, int]:
    """Values per row at each hook point, from the structure of the network.

    Raises:
        FeaturewatchError: the model lacks a layer or site.
    """
    from transformers import AutoModel

    config.require_hook_points(hook_points)
    if all(point.site.startswith("resid_") for point in hook_points):
        return dict.fromkeys(hook_points, config.width)
    shallow = copy.deepcopy(config.whole)
    cut(shallow, max(point.layer for point in hook_points) + 1)
    with torch.device("meta"):
        network = load_quietly(config.model, lambda: AutoModel.from_config(shallow))
    layers = find_layers(network, config.model)
    return {point: width_at(layers[point.layer], point, config.width, config.model) for point in hook_points}
