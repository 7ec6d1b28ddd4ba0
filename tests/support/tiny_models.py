"""Tiny models with random weights, one per decoder family, as Hugging Face folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

LAYERS, VOCABULARY = 3, 1024
WIDTH: Final = 128
_COMMON: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 256,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
}


def _config(family: str) -> Any:
    import transformers as hf

    makers: dict[str, Callable[[], Any]] = {
        "llama": lambda: hf.LlamaConfig(**_COMMON),
        "llama_long": lambda: hf.LlamaConfig(**{**_COMMON, "max_position_embeddings": 8192}),
        "mistral": lambda: hf.MistralConfig(**_COMMON, head_dim=32, sliding_window=None),
        "qwen2": lambda: hf.Qwen2Config(**_COMMON),
        # Three kinds of rows: inside a window, beyond it, and of a layer without one.
        "gemma3": lambda: hf.Gemma3TextConfig(
            **_COMMON,
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=32,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        "olmo2": lambda: hf.Olmo2Config(**_COMMON),
        "granite": lambda: hf.GraniteConfig(**_COMMON, residual_multiplier=0.5),
        "falcon": lambda: hf.FalconConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=512,
            bos_token_id=2,
            eos_token_id=3,
        ),
        "gpt_neox": lambda: hf.GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=256,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=512,
            bos_token_id=2,
            eos_token_id=3,
        ),
        "qwen3_moe": lambda: hf.Qwen3MoeConfig(
            **_COMMON, head_dim=32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64
        ),
        "gpt2": lambda: hf.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=4,
            n_positions=512,
            bos_token_id=2,
            eos_token_id=3,
        ),
        "opt": lambda: hf.OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            word_embed_proj_dim=WIDTH,
            ffn_dim=256,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=512,
        ),
        "qwen3": lambda: hf.Qwen3Config(**_COMMON, head_dim=32),
        "gemma2": lambda: hf.Gemma2Config(**_COMMON, head_dim=32, query_pre_attn_scalar=32, sliding_window=64),
        "phi3": lambda: hf.Phi3Config(**_COMMON),
        "mixtral": lambda: hf.MixtralConfig(**_COMMON, num_local_experts=4, num_experts_per_tok=2),
        # vLLM serves it through its Transformers backend.
        "phi": lambda: hf.PhiConfig(**_COMMON),
        "cohere": lambda: hf.CohereConfig(**_COMMON),
        "stablelm": lambda: hf.StableLmConfig(**_COMMON),
    }
    return makers[family]()


def tiny_model(family: str, folder: Path) -> Path:
    """Writes the model to `folder / family`. Its weights are of the size that trained ones have, so that the stream
    grows from layer to layer and a row taken one layer off is far from the right one; norms and biases count too."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(family), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5 if "embed" in name or "wte" in name else parameter.shape[-1] ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            else:
                parameter.uniform_(0.5, 1.5)
    target = folder / family
    model.save_pretrained(target)
    return target
