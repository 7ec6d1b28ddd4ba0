"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, version 6 and before, exports and training checkpoints.

Tensors are stored ``W_enc [d, m]``, ``b_enc [m]``, ``W_dec [m, d]``, ``b_dec [d]``; jumprelu adds ``threshold [m]``
(or ``log_threshold``), a checkpoint of batchtopk or matryoshka_batchtopk the scalar ``topk_threshold``; gated has
``b_gate``, ``b_mag`` and ``r_mag`` for ``b_enc``. The order of the forward pass is that of sae-lens 6
(`process_sae_in`): normalise, subtract `b_dec` if `apply_b_dec_to_input`, encode, activate, decode, undo the
normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from monitor.errors import FeaturewatchError
from monitor.sae.activation import Activation, JumpRelu, Relu, TopK
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.family import Family, k_of, odd_values_are_told, place_of
from monitor.sae.formats.gated import fold_gate
from monitor.sae.formats.saelens_config import current_config
from monitor.sae.formats.stored import Hints, Stored, open_stored, read_config
from monitor.sae.formats.weights import TensorReader, Weights
from monitor.sae.input_norm import InputNorm

CONFIG_FILE: Final = "cfg.json"
WEIGHTS_FILE: Final = "sae_weights.safetensors"
SCALER_FILE: Final = "activation_scaler.json"
_SCALED: Final = "expected_average_only_in"
_ROW_NORMS: Final[dict[str, InputNorm]] = {"layer_norm": "layer_norm", "constant_norm_rescale": "unit_norm"}
_BATCH_TOP_K: Final = ("batchtopk", "matryoshka_batchtopk")
_ARCHITECTURES: Final = ("standard", "topk", "jumprelu", "gated", *_BATCH_TOP_K)


def load_saelens(folder: Path, hints: Hints | None = None) -> Dictionary:
    """Reads a folder in SAELens layout into the normal form (float32).

    Raises:
        FeaturewatchError: files or tensors are missing, the architecture or a normalisation is not supported, shapes
            disagree or values are not finite.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FeaturewatchError(
                f"SAE folder {folder}",
                f"it must hold {CONFIG_FILE} and {WEIGHTS_FILE} (SAELens layout)",
                "give the folder that holds these two files",
            )
    stored = open_stored(folder)
    with odd_values_are_told(stored):
        return _load(stored, hints or Hints())


def _recognises(stored: Stored) -> bool:
    said = {"architecture", "hook_name", "hook_point", "metadata"} & set(stored.config)
    return stored.config_path.name == CONFIG_FILE and stored.has("W_enc", "W_dec") and bool(said)


def _load(stored: Stored, hints: Hints) -> Dictionary:
    config = current_config(stored.config)
    architecture = str(config.get("architecture") or "standard")
    _refuse_unsupported(stored, config, architecture)
    gated = architecture == "gated"
    reader = TensorReader(
        stored, latents="b_mag" if gated else "b_enc", width="b_dec", d=config.get("d_in"), m=config.get("d_sae")
    )
    weights = Weights(
        reader.matrix("W_enc", "dm"),
        reader.vector("b_mag" if gated else "b_enc", "m"),
        reader.matrix("W_dec", "md"),
        reader.vector("b_dec", "d"),
    )
    factor = _norm_factor(stored, config, hints)
    rescaled = bool(config.get("rescale_acts_by_decoder_norm", False)) and architecture in ("topk", *_BATCH_TOP_K)
    activation: Activation = Relu()
    if gated:
        activation = fold_gate(weights, reader.vector("r_mag", "m"), reader.vector("b_gate", "m"))
    # The encoder reads factor * x - b_dec. SAELens' own fold divides b_dec by the factor first, which is the same.
    if config.get("apply_b_dec_to_input", True):
        weights.subtract_b_dec()
    weights.scale_input(factor)
    weights.scale_output(1 / factor)
    if "scaling_factor" in stored.tensors:
        # Of a finetuned SAE: multiplies the latents before they are decoded.
        weights.w_dec_md = weights.w_dec_md * reader.vector("scaling_factor", "m")[:, None]
    if rescaled:
        weights.measure_in_decoder_norms()
    if architecture == "topk":
        activation = TopK(k_of(stored, hints, config.get("k")))
    elif not gated and architecture != "standard":
        # A checkpoint's topk_threshold is in units of pre * |W_dec| of the normalised data (SAELens issue 763).
        activation = JumpRelu(_threshold(stored, reader) / np.float32(factor if rescaled else 1))
    reader.finish()
    metadata = dict(config.get("metadata") or {})
    hook_point = place_of(stored, hints, metadata.get("hook_name"), metadata.get("hf_hook_name"))
    if config.get("reshape_activations") == "hook_z" and hook_point.site != "attn_z":
        raise FeaturewatchError(
            f"reshape_activations 'hook_z' in {stored.config_path} of an SAE at {hook_point}",
            "only attn_z has heads to put side by side",
            "restore the configuration: it is of another SAE",
        )
    return Dictionary(
        w_enc_md=weights.w_enc_md,
        b_enc_m=weights.b_enc_m,
        w_dec_md=weights.w_dec_md,
        b_dec_d=weights.b_dec_d,
        activation=activation,
        hook_point=hook_point,
        model=str(hints.model or metadata.get("model_name") or ""),
        sha256=stored.sha256,
        metadata=metadata,
        input_norm=_ROW_NORMS.get(str(config.get("normalize_activations")), "none"),
    )


def _threshold(stored: Stored, reader: TensorReader) -> np.ndarray[Any, np.dtype[np.float32]]:
    if "log_threshold" in stored.tensors:
        return np.exp(reader.vector("log_threshold", "m"))
    if "topk_threshold" in stored.tensors:
        return np.full(reader.m, reader.scalar("topk_threshold"), np.float32)
    return reader.vector("threshold", "m")


def _norm_factor(stored: Stored, config: Mapping[str, Any], hints: Hints) -> float:
    """What activations were multiplied with in training and no export has folded yet."""
    if config.get("normalize_activations") != _SCALED:
        return 1.0
    factor: Any = hints.norm_factor
    scaler = stored.weights.with_name(SCALER_FILE)
    if factor is None and scaler.is_file():
        factor = read_config(scaler).get("scaling_factor")
    if isinstance(factor, int | float) and math.isfinite(factor) and factor > 0:
        return float(factor)
    raise FeaturewatchError(
        f"normalize_activations {_SCALED!r} in {stored.config_path} with factor {factor!r}",
        "activations were multiplied with sqrt(d) / mean norm in training, and the file does not hold that number",
        "say it: --norm-factor (SAELens lists it as norm_scaling_factor; 1 if it is folded in already)",
    )


def _refuse_unsupported(stored: Stored, config: Mapping[str, Any], architecture: str) -> None:
    if architecture not in _ARCHITECTURES:
        raise FeaturewatchError(
            f"SAE architecture {architecture!r} in {stored.config_path}",
            f"SAELens' {', '.join(_ARCHITECTURES)} can be read",
            "choose another SAE",
        )
    normalisation = config.get("normalize_activations", "none")
    if normalisation not in ("none", _SCALED, *_ROW_NORMS):
        raise FeaturewatchError(
            f"normalize_activations {normalisation!r} in {stored.config_path}",
            f"none, {_SCALED} and {', '.join(_ROW_NORMS)} can be read",
            "export the SAE for inference with SAELens, which folds it into the weights",
        )
    reshape = config.get("reshape_activations", "none")
    if reshape not in (None, "none", "hook_z"):
        raise FeaturewatchError(
            f"reshape_activations {reshape!r} in {stored.config_path}",
            "none and hook_z (heads side by side) can be read",
            "choose another SAE",
        )
    function = config.get("activation_fn", "relu")
    if function not in ("relu", "topk"):
        raise FeaturewatchError(
            f"activation_fn {function!r} in {stored.config_path}", "relu and topk can be read", "choose another SAE"
        )


FAMILY = Family("SAELens", _recognises, _load)
