"""Where in a model the residual stream can be read, found by structure and not by a list of model names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.tap.op import register_ops
from monitor.tap.structure import hands_on_pair, norm_at_end, norm_at_start


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
) -> list[Site]:
    """Adds one operation per hook point. Call it after the weights are loaded and before profiling and compilation.

    Where layers hand on a pair (hidden states, residual), the point is the next layer's input norm (the last layer: the
    final norm), which returns their sum, already computed. Layers that hand on a single tensor are read themselves.

    Raises:
        FeaturewatchError: the model lacks a hook point, has no list of decoder layers, or hands on pairs that no norm
            of vLLM's adds up.
    """
    for hook_point in hook_points:
        hook_point.require_in(num_layers, model_name)
    register_ops()
    owner, layers = _decoder(model, num_layers, model_name)

    def buffers() -> tuple[torch.Tensor, torch.Tensor]:
        rows_nd = torch.zeros(max_rows, width, dtype=dtype, device=device)
        return rows_nd, torch.zeros(1, dtype=torch.int64, device=device)

    return [_install(owner, layers, point, *buffers()) for point in hook_points]


def _decoder(model: nn.Module, num_layers: int, model_name: str) -> tuple[nn.Module, nn.ModuleList]:
    language_model = getattr(model, "language_model", model)  # multimodal models hold a second tower of layers
    for module in language_model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == num_layers:
                return module, child
    raise FeaturewatchError(
        f"model {model_name}",
        f"the tap needs a list of {num_layers} decoder layers, and this model has none",
        "serve a decoder-only model without pipeline parallelism or remove the featurewatch configuration",
    )


def _install(
    owner: nn.Module, layers: nn.ModuleList, hook_point: HookPoint, rows_nd: torch.Tensor, fired: torch.Tensor
) -> Site:
    layer = layers[hook_point.layer]
    norm, where = _adding_norm(owner, layers, hook_point)
    module = layer if norm is None else norm
    name = f"featurewatch_{hook_point.layer}"
    # As buffers of the module they are inputs of the compiled graph, not constants in it.
    module.register_buffer(f"{name}_rows", rows_nd, persistent=False)
    module.register_buffer(f"{name}_fired", fired, persistent=False)
    hook = _layer_hook(name) if norm is None else _norm_hook(name)
    return Site(
        hook_point=hook_point,
        buffer_nd=rows_nd,
        fired=fired,
        where=f"{where} ({type(module).__name__})",
        handle=module.register_forward_hook(hook),
    )


def _adding_norm(owner: nn.Module, layers: nn.ModuleList, hook_point: HookPoint) -> tuple[nn.Module | None, str]:
    """The norm that receives exactly this layer's pair, or None for a layer that hands on one tensor."""
    index = hook_point.layer
    if not hands_on_pair(layers[index]):
        return None, "output of the layer"
    if index + 1 < len(layers):
        norm, where = norm_at_start(layers[index + 1]), "input norm of the next layer"
    else:
        norm, where = norm_at_end(owner), "final norm"
    if norm is None:
        raise FeaturewatchError(
            f"{hook_point} of a model with layers {type(layers[index]).__name__}",
            "they hand on two tensors and no norm of vLLM's adds these up, so the tap cannot tell the residual stream",
            "remove the featurewatch configuration; docs/tap.md says which models can be tapped",
        )
    return norm, where


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
