"""Where the sites of a decoder layer are: candidates by the names that families use, one chosen by what it computes.

The layer's halves are right when input + attention + MLP = output, which holds for sequential and for parallel layers.
Names alone do not tell: `post_attention_layernorm` is behind the attention in Gemma and before the MLP in Llama.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "fc2")
_PROJECTION = ("o_proj", "out_proj", "c_proj", "dense", "wo")
_NORMS_BEHIND = {
    "attn_out": ("post_attention_layernorm", "post_self_attn_layernorm"),
    "mlp_out": ("post_feedforward_layernorm", "post_mlp_layernorm"),
}
_HALVES = ("attn_out", "mlp_out")


@dataclass(frozen=True)
class Place:
    """Input or output of a module, times a factor that some families put before the residual stream."""

    module: nn.Module
    is_input: bool = False
    factor: float = 1.0

    def rows(self, inputs: Any, named_inputs: dict[str, Any], output: Any, shape: Sequence[int]) -> Tensor:
        """[b, t, width] of one call, a copy: the network may go on in place."""
        value = (inputs[0] if inputs else named_inputs["hidden_states"]) if self.is_input else output
        if isinstance(value, tuple | list):
            value = value[0]
        rows_btd: Tensor = value.detach().reshape(*shape, value.shape[-1])
        return rows_btd.clone() if self.factor == 1.0 else rows_btd * self.factor


def candidates(layer: nn.Module, point: HookPoint, model: str) -> list[Place]:
    """Places that may be the hook point's, the most likely first.

    Raises:
        FeaturewatchError: the layer has no module of a known name.
    """
    if point.site in ("resid_pre", "resid_post"):
        return [Place(layer, is_input=point.site == "resid_pre")]
    if point.site == "attn_z":
        attention = _child(layer, _ATTENTION, point, model)
        return [Place(_child(attention, _PROJECTION, point, model), is_input=True)]
    factor = getattr(layer, "residual_multiplier", 1.0)
    half = _child(layer, _ATTENTION if point.site == "attn_out" else _MLP, point, model)
    norms = [
        module for name in _NORMS_BEHIND[point.site] if isinstance(module := getattr(layer, name, None), nn.Module)
    ]
    return [Place(module, factor=float(factor)) for module in (*norms, half)]


def width_at(layer: nn.Module, point: HookPoint, width: int, model: str) -> int:
    """Values per row of a hook point in a model of width `width`; the layer may be on the meta device.

    Raises:
        FeaturewatchError: the layer has no such site.
    """
    (place, *_) = candidates(layer, point, model)
    if point.site != "attn_z":
        return width
    if isinstance(place.module, nn.Linear):
        return place.module.in_features
    return int(place.module.get_parameter("weight").shape[0])  # GPT-2's Conv1D holds [inputs, outputs]


def choose(seen: dict[HookPoint, list[Tensor]], layer: int, model: str, dtype: torch.dtype) -> dict[HookPoint, int]:
    """Which candidates of a layer's halves add up.

    Args:
        seen: rows [b, t, d] of one pass, one tensor per candidate, of all sites of the layer but `attn_z`.
        layer: its number.
        model: its name, for errors.
        dtype: of the pass.

    Raises:
        FeaturewatchError: none does.
    """
    before_btd, after_btd = (seen[HookPoint(layer, site)][0].float() for site in ("resid_pre", "resid_post"))
    attention, mlp = (HookPoint(layer, site) for site in _HALVES)
    errors = {}
    for i, attention_btd in enumerate(seen[attention]):
        for j, mlp_btd in enumerate(seen[mlp]):
            parts = attention_btd.float().norm() + mlp_btd.float().norm()
            apart = (before_btd + attention_btd.float() + mlp_btd.float() - after_btd).norm()
            # Rounding of the sum counts in units of the stream, a wrong place in units of the parts.
            rounding = torch.finfo(dtype).eps * after_btd.norm()
            errors[i, j] = float((apart - 4 * rounding) / parts)
    best = min(errors, key=lambda pair: errors[pair])
    if not errors[best] < 0.02:
        raise FeaturewatchError(
            f"{attention} and {mlp} of {model}",
            "input + attention + MLP of this layer is not its output, so that what each half adds cannot be told",
            f"use resid_pre.{layer} or resid_post.{layer}",
        )
    return {attention: best[0], mlp: best[1]}


def _child(owner: nn.Module, names: Sequence[str], point: HookPoint, model: str) -> nn.Module:
    for name in names:
        if isinstance(module := getattr(owner, name, None), nn.Module):
            return module
    held = ", ".join(name for name, _ in owner.named_children()) or "nothing"
    raise FeaturewatchError(
        f"hook point '{point}' of {model}",
        f"none of {', '.join(names)} is in {type(owner).__name__}, which holds {held}",
        f"use resid_pre.{point.layer} or resid_post.{point.layer}",
    )
