"""The SAELens directory layout: ``cfg.json`` and ``sae_weights.safetensors``.

Tensors are stored ``W_enc [d, m]``, ``b_enc [m]``, ``W_dec [m, d]``, ``b_dec [d]`` and, for jumprelu,
``threshold [m]``. The order of the forward pass is that of sae-lens 6 (`process_sae_in`): subtract `b_dec` if
`apply_b_dec_to_input`, encode, activate, decode.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save_file

from monitor.errors import FeaturewatchError
from monitor.sae.activation import JumpRelu, Relu
from monitor.sae.dictionary import Dictionary
from monitor.sae.hook_point import HookPoint

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"


def load_saelens(folder: Path) -> Dictionary:
    """Reads a folder in SAELens layout into the normal form (float32).

    Raises:
        FeaturewatchError: files or tensors are missing, the architecture or a normalisation is not supported, shapes
            disagree or values are not finite.
    """
    config = _read_config(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise FeaturewatchError(
            f"SAE folder {folder}", f"it must hold {WEIGHTS_FILE}", "give the folder that the training wrote"
        )
    data = weights.read_bytes()
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise FeaturewatchError(
            f"SAE weights {weights} ({error})",
            "the file must be in safetensors format with float16, float32 or float64 tensors",
            "download or train the SAE again",
        ) from error
    except KeyError as error:  # safetensors looks the dtype up among those that numpy has
        raise FeaturewatchError(
            f"SAE weights {weights} with tensors of dtype {error.args[0]}",
            "they must be float16, float32 or float64, the dtypes that numpy can read",
            "load the tensors with safetensors.torch, call .float() on each and save them to the same file name",
        ) from error
    architecture = config.get("architecture", "standard")
    _refuse_unsupported(folder, config, architecture)

    def tensor(name: str) -> npt.NDArray[np.float32]:
        if name not in tensors:
            raise FeaturewatchError(
                f"SAE weights {weights} with tensors {', '.join(sorted(tensors))}",
                f"architecture {architecture!r} needs a tensor {name}",
                "check cfg.json's architecture or export the SAE again",
            )
        return np.ascontiguousarray(tensors[name], dtype=np.float32)

    w_enc_md = np.ascontiguousarray(tensor("W_enc").T)
    b_enc_m, b_dec_d = tensor("b_enc"), tensor("b_dec")
    d_in, d_sae = config.get("d_in", w_enc_md.shape[1]), config.get("d_sae", w_enc_md.shape[0])
    if w_enc_md.shape != (d_sae, d_in):
        raise FeaturewatchError(
            f"SAE tensor W_enc of shape {list(w_enc_md.T.shape)} in {weights}",
            f"cfg.json states d_in={d_in} and d_sae={d_sae}, so it must have shape [{d_in}, {d_sae}]",
            "export the SAE again: configuration and weights are of different SAEs or W_enc is transposed",
        )
    if config.get("apply_b_dec_to_input", True):
        b_enc_m = b_enc_m - w_enc_md @ b_dec_d
    activation = JumpRelu(tensor("threshold")) if architecture == "jumprelu" else Relu()
    metadata = dict(config.get("metadata") or {})
    return Dictionary(
        w_enc_md=w_enc_md,
        b_enc_m=b_enc_m,
        w_dec_md=tensor("W_dec"),
        b_dec_d=b_dec_d,
        activation=activation,
        hook_point=_hook_point(folder, config, metadata),
        model=str(metadata.get("model_name", config.get("model_name", ""))),
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=metadata,
    )


def save_saelens(dictionary: Dictionary, folder: Path, *, dtype: str = "float32") -> Path:
    """Writes the normal form as SAELens ``jumprelu`` or ``standard`` and returns the folder.

    `apply_b_dec_to_input` is stored as false because the normal form has that folded into `b_enc`. With
    ``dtype="float16"`` the matrices and biases are halved in size; thresholds stay float32.
    """
    if dtype not in ("float16", "float32"):
        raise FeaturewatchError(f"SAE dtype {dtype!r}", "it is float16 or float32", "choose one of them")
    folder.mkdir(parents=True, exist_ok=True)
    store = np.float16 if dtype == "float16" else np.float32
    tensors: dict[str, npt.NDArray[Any]] = {
        "W_enc": np.ascontiguousarray(dictionary.w_enc_md.T, dtype=store),
        "b_enc": dictionary.b_enc_m.astype(store),
        "W_dec": dictionary.w_dec_md.astype(store),
        "b_dec": dictionary.b_dec_d.astype(store),
    }
    if isinstance(dictionary.activation, JumpRelu):
        tensors["threshold"] = dictionary.activation.threshold_m.astype(np.float32)
    config = {
        "architecture": "jumprelu" if isinstance(dictionary.activation, JumpRelu) else "standard",
        "d_in": dictionary.width,
        "d_sae": dictionary.num_latents,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.0",
            "model_name": dictionary.model,
            "hook_name": dictionary.hook_point.transformer_lens_name,
            "hf_hook_name": dictionary.hook_point.hugging_face_name,
            "hook_head_index": None,
            **dictionary.metadata,
        },
    }
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    return folder


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FeaturewatchError(
            f"SAE folder {folder}",
            f"it must hold {CONFIG_FILE} and {WEIGHTS_FILE} (SAELens layout)",
            "give the folder that holds these two files",
        )
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise FeaturewatchError(f"{path} ({error})", "it must be JSON", "restore it from the training run") from error
    if not isinstance(config, dict):
        raise FeaturewatchError(f"{path}", "it must be a JSON object", "restore it from the training run")
    return config


def _refuse_unsupported(folder: Path, config: dict[str, Any], architecture: str) -> None:
    if architecture not in ("standard", "jumprelu"):
        raise FeaturewatchError(
            f"SAE architecture {architecture!r} in {folder / CONFIG_FILE}",
            "this version reads standard (ReLU) and jumprelu; BatchTopK and Matryoshka SAEs are stored as jumprelu",
            "convert the SAE to jumprelu",
        )
    normalisation = config.get("normalize_activations", "none")
    if normalisation not in (None, False, "none"):
        raise FeaturewatchError(
            f"normalize_activations {normalisation!r} in {folder / CONFIG_FILE}",
            "this version reads SAEs whose normalisation is folded into the weights",
            "export the SAE with folded normalisation",
        )
    if config.get("reshape_activations", "none") not in (None, "none"):
        raise FeaturewatchError(
            f"reshape_activations {config['reshape_activations']!r} in {folder / CONFIG_FILE}",
            "this version reads SAEs of the residual stream",
            "use an SAE that was trained at resid_post",
        )


def _hook_point(folder: Path, config: dict[str, Any], metadata: dict[str, Any]) -> HookPoint:
    names = [metadata.get("hook_name"), config.get("hook_name"), metadata.get("hf_hook_name")]
    for name in names:
        if isinstance(name, str):
            return HookPoint.from_foreign(name)
    raise FeaturewatchError(
        f"{folder / CONFIG_FILE} without hook_name",
        "it must name the site that the SAE was trained on, e.g. blocks.14.hook_resid_post",
        "add metadata.hook_name",
    )
