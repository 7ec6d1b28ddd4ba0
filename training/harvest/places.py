"""Where a network's hook points are: found by structure, the halves of a layer proven by what they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from monitor.sae import HookPoint
from training.harvest.hooked_pass import HookedPass
from training.harvest.model_config import text_part
from training.harvest.sites import Place, candidates, choose

_PROBE_TOKENS = 16
_HALVES = ("attn_out", "mlp_out")


def find_places(network: Any, layers: nn.ModuleList, points: Sequence[HookPoint], model: str) -> dict[HookPoint, Place]:
    """The place of every hook point.

    Args:
        network: without head, on its device.
        layers: its decoder layers.
        points: to be found.
        model: its name, for errors.

    Raises:
        FeaturewatchError: a layer has no such site, or its halves do not add up.
    """
    places = {point: candidates(layers[point.layer], point, model)[0] for point in points if point.site not in _HALVES}
    for number in sorted({point.layer for point in points if point.site in _HALVES}):
        chosen = _proven_halves(network, layers[number], number, model)
        places |= {point: place for point, place in chosen.items() if point in points}
    return places


def _proven_halves(network: Any, layer: nn.Module, number: int, model: str) -> dict[HookPoint, Place]:
    """What both halves of a layer add to the stream; a short pass shows that it adds up."""
    points = [HookPoint(number, site) for site in ("resid_pre", *_HALVES, "resid_post")]
    found = {point: candidates(layer, point, model) for point in points}
    vocabulary = int(getattr(text_part(network.config), "vocab_size", 1))
    ids_bt = torch.randint(vocabulary, (1, _PROBE_TOKENS), generator=torch.Generator().manual_seed(0))
    places = {(point, index): place for point, tried in found.items() for index, place in enumerate(tried)}
    probe = HookedPass(network, places, network.device)
    rows = probe.run(ids_bt)
    probe.remove()
    seen = {point: [rows[point, index] for index in range(len(tried))] for point, tried in found.items()}
    return {point: found[point][index] for point, index in choose(seen, number, model, network.dtype).items()}
