"""Writes the normal form in SAELens layout, so that SAELens and we can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from monitor.errors import FeaturewatchError
from monitor.sae.activation import Activation, GroupMax, JumpRelu, TopK
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.saelens import CONFIG_FILE, WEIGHTS_FILE
from monitor.sae.input_norm import InputNorm

_NORMS: Final[dict[InputNorm, str]] = {
    "none": "none",
    "layer_norm": "layer_norm",
    "unit_norm": "constant_norm_rescale",
}
DTYPES: Final = ("float32", "float16")


def save_saelens(dictionary: Dictionary, folder: Path, *, dtype: str = "float32") -> Path:
    """Writes ``cfg.json`` and ``sae_weights.safetensors`` and returns the folder.

    `apply_b_dec_to_input` is stored as false because the normal form has that folded into `b_enc`. With
    ``dtype="float16"`` the matrices and biases are halved in size; thresholds stay float32.

    Raises:
        FeaturewatchError: SAELens has no such SAE (GroupMax), or the dtype cannot hold the weights.
    """
    if dtype not in DTYPES:
        raise FeaturewatchError(f"SAE dtype {dtype!r}", f"it is {' or '.join(DTYPES)}", "choose one of them")
    rule = _rule(dictionary.activation)
    tensors: dict[str, npt.NDArray[Any]] = {
        "W_enc": _stored("W_enc", dictionary.w_enc_md.T, dtype),
        "b_enc": _stored("b_enc", dictionary.b_enc_m, dtype),
        "W_dec": _stored("W_dec", dictionary.w_dec_md, dtype),
        "b_dec": _stored("b_dec", dictionary.b_dec_d, dtype),
    }
    if isinstance(dictionary.activation, JumpRelu):
        tensors["threshold"] = dictionary.activation.threshold_m.astype(np.float32)
    heads = dictionary.hook_point.site == "attn_z"
    config = {
        **rule,
        "d_in": dictionary.width,
        "d_sae": dictionary.num_latents,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": _NORMS[dictionary.input_norm],
        "reshape_activations": "hook_z" if heads else "none",
        "metadata": {
            **dictionary.metadata,
            "sae_lens_version": "6.54.0",
            "model_name": dictionary.model,
            "hook_name": dictionary.hook_point.transformer_lens_name,
            "hf_hook_name": dictionary.hook_point.hugging_face_name,
            "hook_head_index": None,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    return folder


def _rule(activation: Activation) -> dict[str, Any]:
    if isinstance(activation, GroupMax):
        raise FeaturewatchError(
            f"SAE with activation GroupMax({activation.groups})",
            "the SAELens layout has relu, jumprelu and topk",
            "give it thresholds first: featurewatch sae convert --threshold-from ROWS --l0 K",
        )
    if isinstance(activation, TopK):
        return {"architecture": "topk", "k": activation.k, "rescale_acts_by_decoder_norm": False}
    return {"architecture": "jumprelu" if isinstance(activation, JumpRelu) else "standard"}


def _stored(name: str, array: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype=np.dtype(dtype))
    if not np.isfinite(stored).all():
        raise FeaturewatchError(
            f"SAE tensor {name} with values up to {np.abs(array).max():.4g}",
            f"{dtype} cannot hold them",
            "store it in float32",
        )
    return stored
