"""Where in a model the residual stream can be read, found by structure and not by a list of model names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.tap.op import register_ops

# Where vLLM's decoder layers add what the layer before handed on, and where its models do after the last layer.
_INPUT_NORMS: Final = ("input_layernorm", "ln_1", "attention_norm", "attention_layernorm", "operator_norm")
_FINAL_NORMS: Final = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "embedding_norm")


def _untappable(what: str) -> str:
    """Made beforehand: under torch.compile a hook can raise nothing but a built-in exception with a constant text."""
    return str(
        FeaturewatchError(
            f"a decoder layer that {what}",
            "the tap must know which tensor is the residual stream",
            "remove the featurewatch configuration; docs/tap.md says which models can be tapped",
        )
    )


_NO_RESIDUAL: Final = _untappable("gives its norms no residual")
_UNKNOWN_PAIR: Final = _untappable("hands on a pair that no norm of vLLM's adds up")


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
    final norm): given the pair, one of vLLM's norms returns their sum, which is the stream, already computed. Layers
    that hand on a single tensor are read themselves. A pair that no such norm adds up is refused and not summed here:
    in some families (Command R, EXAONE 4, StableLM) it holds the finished stream beside an outdated residual.

    Raises:
        FeaturewatchError: the model lacks a hook point or has no list of decoder layers.
        RuntimeError: from the model's first forward pass, which is vLLM's profiling run: it cannot be read rightly.
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
    """The norm that receives exactly this layer's pair, or None."""
    if "residual" not in _parameters(layers[layer].forward):
        return None
    holder, names = (layers[layer + 1], _INPUT_NORMS) if layer + 1 < len(layers) else (owner, _FINAL_NORMS)
    for norm in (getattr(holder, name, None) for name in names):
        # vLLM's norms dispatch from forward(*args) to forward_native(x, residual).
        if isinstance(norm, nn.Module) and "residual" in _parameters(getattr(norm, "forward_native", norm.forward)):
            return norm
    return None


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _norm_hook(name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, tuple):
            raise RuntimeError(_NO_RESIDUAL)
        _copy(output[1], module, name)

    return hook


def _layer_hook(name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], torch.Tensor):
            raise RuntimeError(_UNKNOWN_PAIR)
        _copy(output[0] if isinstance(output, tuple) else output, module, name)

    return hook


def _copy(residual_nd: torch.Tensor, module: nn.Module, name: str) -> None:
    torch.ops.featurewatch.copy_residual(residual_nd, getattr(module, f"{name}_rows"), getattr(module, f"{name}_fired"))
