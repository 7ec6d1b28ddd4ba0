"""Llama Scope (2024, ``hyperparams.json`` and ``checkpoints/final.safetensors``) and its R1-Distill set
(``config.json`` and ``sae_weights.safetensors``).

The 2024 files were turned from TopK into JumpReLU with one threshold, in units of the raw output: with
``s_in = sqrt(d) / norm_in`` and ``s_out = sqrt(d) / norm_out``, ``pre = s_in x We^T + be``, ``f = pre`` where
``pre > s_out threshold``, ``x_hat = (f Wd^T + bd) / s_out``. The R1-Distill files hold ``log_jumprelu_threshold [m]``
of the normalised data instead.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from monitor.errors import FeaturewatchError
from monitor.sae.activation import JumpRelu
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.family import Family, model_of, normal_form, place_of
from monitor.sae.formats.stored import Hints, Stored
from monitor.sae.formats.weights import TensorReader, Weights

NAME: Final = "Llama Scope"
NAME_R1: Final = "Llama Scope R1-Distill"
_TENSORS: Final = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_NORM: Final = "dataset_average_activation_norm"


def _recognises(stored: Stored) -> bool:
    return stored.has(*_TENSORS) and ("jump_relu_threshold" in stored.config or stored.has("log_jumprelu_threshold"))


def _load(stored: Stored, hints: Hints) -> Dictionary:
    config = stored.config
    r1 = stored.has("log_jumprelu_threshold")
    _refuse_unsupported(stored)
    expansion, width = config.get("expansion_factor"), config.get("d_model")
    latents = config.get("d_sae") or (int(width * expansion) if width and expansion else None)
    reader = TensorReader(stored, latents="encoder.bias", width="decoder.bias", d=width, m=latents)
    weights = Weights(
        reader.matrix("encoder.weight", "md"),
        reader.vector("encoder.bias", "m"),
        reader.matrix("decoder.weight", "dm"),
        reader.vector("decoder.bias", "d"),
    )
    scale_in, scale_out = _scales(stored, hints, reader.d)
    if r1:
        threshold_m = np.exp(reader.vector("log_jumprelu_threshold", "m"))
        if config.get("sparsity_include_decoder_norm", False):
            threshold_m = weights.undo_decoder_norms(threshold_m)
    else:
        threshold_m = np.full(reader.m, scale_out * float(config["jump_relu_threshold"]), np.float32)
    reader.finish(ignored=[name for name in stored.tensors if name.startswith(_NORM)])
    weights.scale_input(scale_in)
    weights.scale_output(1 / scale_out)
    return normal_form(
        weights,
        JumpRelu(threshold_m),
        stored,
        hook_point=place_of(stored, hints, config.get("hook_point_in")),
        model=model_of(stored, hints, "deepseek-ai/DeepSeek-R1-Distill-Llama-8B" if r1 else "meta-llama/Llama-3.1-8B"),
        family=NAME_R1 if r1 else NAME,
    )


def _scales(stored: Stored, hints: Hints, width: int) -> tuple[float, float]:
    """What input and output were multiplied with in training."""
    if hints.norm_factor is not None:
        return hints.norm_factor, hints.norm_factor
    rule = stored.config.get("norm_activation", "dataset-wise")
    if rule == "inference":
        return 1.0, 1.0
    norms: Any = stored.config.get(_NORM)
    if rule == "dataset-wise" and isinstance(norms, dict) and {"in", "out"} <= set(norms):
        if not all(isinstance(norms[side], int | float) and norms[side] > 0 for side in ("in", "out")):
            raise FeaturewatchError(
                f"{_NORM} {norms!r} in {stored.config_path}", "both norms are above 0", "download the SAE again"
            )
        return math.sqrt(width) / norms["in"], math.sqrt(width) / norms["out"]
    raise FeaturewatchError(
        f"norm_activation {rule!r} in {stored.config_path} with {_NORM} {norms!r}",
        "activations were multiplied with sqrt(d) / mean norm in training, and the file does not hold that number",
        "say it: --norm-factor (SAELens lists it as norm_scaling_factor)",
    )


def _refuse_unsupported(stored: Stored) -> None:
    function = str(stored.config.get("act_fn", "jumprelu")).lower()
    if function != "jumprelu":
        raise FeaturewatchError(
            f"act_fn {function!r} in {stored.config_path}", "the released SAEs have jumprelu", "choose one of them"
        )
    for name in ("apply_decoder_bias_to_pre_encoder", "use_glu_encoder"):
        if stored.config.get(name):
            raise FeaturewatchError(
                f"{name} in {stored.config_path}", "no released SAE of this family has it", "choose one of them"
            )


FAMILY = Family(NAME, _recognises, _load)
