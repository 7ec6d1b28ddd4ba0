"""The network of a Hugging Face model, whole or cut after a layer, and where its decoder layers are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from monitor.errors import FeaturewatchError
from training.harvest.loading import load_quietly
from training.harvest.model_config import ModelConfig, cut, text_part


def load_cut_network(model: str, dtype: torch.dtype, depth: int) -> Any:
    """The first `depth` layers without the language-model head; nothing else is read into memory.

    Raises:
        FeaturewatchError: it cannot be loaded, or the files lack weights.
    """
    from transformers import AutoModel

    config = ModelConfig.read(model).whole
    cut(config, depth)
    return _load(AutoModel, model, dtype, config)


def load_whole_network(model: str, dtype: torch.dtype) -> Any:
    """All layers with the language-model head; raises FeaturewatchError."""
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, model, dtype, ModelConfig.read(model).whole)


def find_layers(network: Any, model: str) -> nn.ModuleList:
    """The decoder layers of a network without head; raises FeaturewatchError when they cannot be told."""
    depth = getattr(text_part(network.config), "num_hidden_layers", None)
    inner = getattr(network, "model", None)
    owners = [getattr(outer, name, None) for outer in (network, inner) for name in ("language_model", "decoder")]
    for owner in (network, inner, *owners):
        for name in ("layers", "h"):
            layers = getattr(owner, name, None)
            if isinstance(layers, nn.ModuleList) and len(layers) == depth:
                return layers
    raise FeaturewatchError(
        f"model {model} of type {type(network).__name__}",
        "its decoder layers were not found under layers or h",
        "use a decoder-only model such as Llama, Qwen, Mistral, Gemma or GPT-2",
    )


def _load(loader: Any, model: str, dtype: torch.dtype, config: Any) -> Any:
    # The fused kernels leave the soft cap on attention scores out (Gemma 2), without a word.
    attention = "eager" if getattr(text_part(config), "attn_logit_softcapping", None) else None

    def load() -> Any:
        return loader.from_pretrained(
            model, config=config, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )

    network, info = load_quietly(model, load)
    if missing := sorted(info["missing_keys"]):
        # transformers would go on with random values in their place.
        raise FeaturewatchError(
            f"model {model} without {missing[0]} and {len(missing) - 1} more tensors",
            "its files must hold all weights",
            "fetch or save the model again",
        )
    return network
