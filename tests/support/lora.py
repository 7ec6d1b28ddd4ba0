"""A LoRA adapter with random weights for glassllm, and the model with it merged in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from support.glassllm import LAYERS, glassllm_folder

_RANK, _ALPHA = 8, 16
_TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def lora_adapter(folder: Path) -> tuple[Path, Path]:
    """Writes `folder / adapter` in PEFT's layout and `folder / merged`; returns both."""
    random = np.random.default_rng(0)
    adapter, merged = folder / "adapter", folder / "merged"
    shutil.copytree(glassllm_folder(), merged)
    weights = load_file(merged / "model.safetensors")
    tensors = {}
    for layer in range(LAYERS):
        for target in _TARGETS:
            name = f"model.layers.{layer}.{target}"
            rows, columns = weights[f"{name}.weight"].shape
            a_rc = (random.normal(size=(_RANK, columns)) / np.sqrt(columns)).astype(np.float32)
            b_or = (random.normal(size=(rows, _RANK)) / np.sqrt(_RANK)).astype(np.float32)
            tensors[f"base_model.model.{name}.lora_A.weight"] = a_rc
            tensors[f"base_model.model.{name}.lora_B.weight"] = b_or
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + _ALPHA / _RANK * b_or @ a_rc
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    adapter.mkdir()
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": _RANK,
        "lora_alpha": _ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [target.rpartition(".")[2] for target in _TARGETS],
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return adapter, merged
