"""Where in a model the residual stream can be read, found by structure and not by a list of model names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.tap.op import register_ops

_FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")


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

    The point is the next layer's `input_layernorm` (the last layer: the final norm), whose second output is the sum of
    hidden states and residual, already there; it is taken where the layer passes a residual on and that norm is one of
    vLLM's. Otherwise the layer's own output is read: a pair is summed, a single tensor copied.

    Raises:
        FeaturewatchError: the model lacks a hook point or has no list of decoder layers.
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
    norm = _next_norm(owner, layers, hook_point.layer)
    module = layer if norm is None else norm
    name = f"featurewatch_{hook_point.layer}"
    # As buffers of the module they are inputs of the compiled graph, not constants in it.
    module.register_buffer(f"{name}_rows", rows_nd, persistent=False)
    module.register_buffer(f"{name}_fired", fired, persistent=False)
    hook = _layer_hook(name) if norm is None else _norm_hook(name)
    if norm is not None:
        where = "input norm of the next layer" if hook_point.layer + 1 < len(layers) else "final norm"
    else:
        where = "output of the layer"
    return Site(
        hook_point=hook_point,
        buffer_nd=rows_nd,
        fired=fired,
        where=f"{where} ({type(module).__name__})",
        handle=module.register_forward_hook(hook),
    )


def _next_norm(owner: nn.Module, layers: nn.ModuleList, layer: int) -> nn.Module | None:
    """The norm that is known to receive exactly this layer's output, or None."""
    if "residual" not in _parameters(layers[layer].forward):
        return None
    if layer + 1 < len(layers):
        candidates = [getattr(layers[layer + 1], "input_layernorm", None)]
    else:
        candidates = [getattr(owner, name, None) for name in _FINAL_NORMS]
    for norm in candidates:
        # vLLM's norms dispatch from forward(*args) to forward_native(x, residual).
        if isinstance(norm, nn.Module) and "residual" in _parameters(getattr(norm, "forward_native", norm.forward)):
            return norm
    return None


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _norm_hook(name: str) -> Any:
    rows_name, fired_name = f"{name}_rows", f"{name}_fired"

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # A pre-norm that is given no residual normalises the stream itself.
        residual = output[1] if isinstance(output, tuple) else args[0]
        torch.ops.featurewatch.copy_residual(residual, getattr(module, rows_name), getattr(module, fired_name))

    return hook


def _layer_hook(name: str) -> Any:
    rows_name, fired_name = f"{name}_rows", f"{name}_fired"

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        rows, fired = getattr(module, rows_name), getattr(module, fired_name)
        if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], torch.Tensor):
            torch.ops.featurewatch.add_residual(output[0], output[1], rows, fired)
        else:
            torch.ops.featurewatch.copy_residual(output[0] if isinstance(output, tuple) else output, rows, fired)

    return hook
