"""Where in a model the residual stream can be read, found by structure and not by a list of model names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.tap.op import register_ops
from monitor.tap.structure import hands_on_pair, is_missing, norm_at_end, norm_at_start


@dataclass(frozen=True)
class Site:
    """One tapped hook point.

    Attributes:
        hook_point: which.
        buffer_nd: static buffer [max_num_batched_tokens, d] in the model's dtype, written by every forward pass.
        fired: int64 [1], grows by one per forward pass.
        where: what was hooked, for the log.
        handle: removes the hook (effective in eager mode; a compiled graph keeps its operation).
    """

    hook_point: HookPoint
    buffer_nd: torch.Tensor
    fired: torch.Tensor
    where: str
    handle: Any


def install_sites(
    model: nn.Module,
    hook_points: Sequence[HookPoint],
    *,
    num_layers: int,
    width: int,
    max_rows: int,
    dtype: torch.dtype,
    device: torch.device,
    model_name: str,
    drafter: nn.Module | None = None,
) -> list[Site]:
    """Adds one operation per hook point that this worker holds. Call it after the weights are loaded and before
    profiling and compilation.

    Where layers hand on a pair (hidden states, residual), the point is the next layer's input norm (the last layer: the
    final norm), which returns their sum, already computed. Layers that hand on a single tensor are read themselves.
    Under pipeline parallelism the rank that holds this module taps the point, and no other does.

    Args:
        drafter: the model that drafts tokens for this one, if one does.

    Raises:
        FeaturewatchError: the model lacks a hook point, has no list of decoder layers, hands on pairs that no norm
            of vLLM's adds up, or shares a module at a hook point with the drafter.
    """
    for hook_point in hook_points:
        hook_point.require_in(num_layers, model_name)
    register_ops()
    owner, layers = _decoder(model, num_layers, model_name)

    def buffers() -> tuple[torch.Tensor, torch.Tensor]:
        rows_nd = torch.zeros(max_rows, width, dtype=dtype, device=device)
        return rows_nd, torch.zeros(1, dtype=torch.int64, device=device)

    # All are found before anything is changed.
    places = [(point, place) for point in hook_points if (place := _place(owner, layers, point)) is not None]
    _refuse_shared(places, drafter)
    return [_install(point, place, *buffers()) for point, place in places]


def _decoder(model: nn.Module, num_layers: int, model_name: str) -> tuple[nn.Module, nn.ModuleList]:
    language_model = getattr(model, "language_model", model)  # multimodal models hold a second tower of layers
    for module in language_model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == num_layers:
                return module, child
    raise FeaturewatchError(
        f"model {model_name}",
        f"the tap needs a list of {num_layers} decoder layers, and this model has none",
        "serve a decoder-only model or remove the featurewatch configuration",
    )


class _Place(NamedTuple):
    """A module behind which the residual stream is finished.

    Attributes:
        adds: True for a norm that adds a pair up and returns the sum as its second output.
        name: for the log.
    """

    module: nn.Module
    adds: bool
    name: str


def _place(owner: nn.Module, layers: nn.ModuleList, hook_point: HookPoint) -> _Place | None:
    """Where exactly this layer's output is whole; None when another pipeline rank holds that module.

    Neighbours are of one kind, pair or not, and so the ranks on both sides of a border decide alike.
    """
    layer = layers[hook_point.layer]
    behind = layers[hook_point.layer + 1] if hook_point.layer + 1 < len(layers) else None
    known = layer if not is_missing(layer) else behind
    if known is None or is_missing(known):
        return None
    if not hands_on_pair(known):
        return None if is_missing(layer) else _Place(layer, adds=False, name="output of the layer")
    if behind is not None:
        if is_missing(behind):
            return None
        norm, name = norm_at_start(behind), "input norm of the next layer"
    else:
        norm, name = norm_at_end(owner), "final norm"
    if norm is None:
        raise FeaturewatchError(
            f"{hook_point} of a model with layers {type(known).__name__}",
            "they hand on two tensors and no norm of vLLM's adds these up, so the tap cannot tell the residual stream",
            "remove the featurewatch configuration; docs/tap.md says which models can be tapped",
        )
    return _Place(norm, adds=True, name=name)


def _refuse_shared(places: Sequence[tuple[HookPoint, _Place]], drafter: nn.Module | None) -> None:
    drafting = set(drafter.modules()) if drafter is not None else set()
    for hook_point, place in places:
        if place.module in drafting:
            raise FeaturewatchError(
                f"{hook_point} at the {place.name}",
                "the drafting model runs this module too, and its passes would overwrite the rows",
                "tap another layer or start the engine without --speculative-config",
            )


def _install(hook_point: HookPoint, place: _Place, rows_nd: torch.Tensor, fired: torch.Tensor) -> Site:
    name = f"featurewatch_{hook_point.layer}"
    # As buffers of the module they are inputs of the compiled graph, not constants in it.
    place.module.register_buffer(f"{name}_rows", rows_nd, persistent=False)
    place.module.register_buffer(f"{name}_fired", fired, persistent=False)
    return Site(
        hook_point=hook_point,
        buffer_nd=rows_nd,
        fired=fired,
        where=f"{place.name} ({type(place.module).__name__})",
        handle=place.module.register_forward_hook(_norm_hook(name) if place.adds else _layer_hook(name)),
    )


# A hook that meets something else than expected copies nothing: the hook point then counts as silent, and the rows as
# not observed.


def _norm_hook(name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, tuple):
            _copy(output[1], module, name)

    return hook


def _layer_hook(name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        parts = output if isinstance(output, tuple) else (output,)
        tensors = [part for part in parts if isinstance(part, torch.Tensor)]
        if len(tensors) == 1:
            _copy(tensors[0], module, name)

    return hook


def _copy(residual_nd: torch.Tensor, module: nn.Module, name: str) -> None:
    torch.ops.featurewatch.copy_residual(residual_nd, getattr(module, f"{name}_rows"), getattr(module, f"{name}_fired"))
