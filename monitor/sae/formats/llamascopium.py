"""llamascopium 2 (OpenMOSS): ``config.json`` and ``sae_weights.safetensors`` with ``W_E [d, m]``, ``W_D [m, d]``.

With `sparsity_include_decoder_norm` the gate looks at ``pre |W_D|`` while the latent stays ``pre``: for jumprelu that
is a threshold divided by the norm; for topk the latents are brought to decoder rows of norm 1 instead, where the
ranking is the same and so is the reconstruction.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from monitor.errors import FeaturewatchError
from monitor.sae.activation import Activation, JumpRelu, Relu, TopK
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.family import Family, k_of, model_of, normal_form, place_of
from monitor.sae.formats.stored import Hints, Stored
from monitor.sae.formats.weights import TensorReader, Weights
from monitor.sae.input_norm import InputNorm

NAME: Final = "llamascopium"
_NORM: Final = "dataset_average_activation_norm"
_THRESHOLD: Final = "activation_function.log_jumprelu_threshold"


def _recognises(stored: Stored) -> bool:
    return stored.has("W_E", "b_E", "W_D")


def _load(stored: Stored, hints: Hints) -> Dictionary:
    config = stored.config
    width, expansion = config.get("d_model"), config.get("expansion_factor")
    biased = config.get("use_decoder_bias", True)
    reader = TensorReader(
        stored,
        latents="b_E",
        width="b_D" if biased else None,
        d=width,
        m=int(width * expansion) if width and expansion else None,
    )
    weights = Weights(
        reader.matrix("W_E", "dm"),
        reader.vector("b_E", "m"),
        reader.matrix("W_D", "md"),
        reader.vector("b_D", "d") if biased else np.zeros(reader.d, np.float32),
    )
    scale, input_norm = _scale(stored, hints, reader)
    weights.scale_input(scale)
    activation = _activation(stored, reader, weights, hints)
    weights.scale_output(1 / scale)
    # Norms that no rule asks for are what lay in memory when the file was written.
    reader.finish(ignored=[name for name in stored.tensors if name.startswith(_NORM)])
    return normal_form(
        weights,
        activation,
        stored,
        hook_point=place_of(stored, hints, config.get("hook_point_in")),
        model=model_of(stored, hints, config.get("model_name")),
        family=NAME,
        input_norm=input_norm,
    )


def _activation(stored: Stored, reader: TensorReader, weights: Weights, hints: Hints) -> Activation:
    """The rule on ``pre`` of the scaled input, before the output is scaled back."""
    function = str(stored.config.get("act_fn", "relu")).lower()
    by_norm = bool(stored.config.get("sparsity_include_decoder_norm", True))
    if function == "relu":
        return Relu()
    if function == "jumprelu":
        threshold_m = np.exp(reader.vector(_THRESHOLD, "m"))
        return JumpRelu(weights.undo_decoder_norms(threshold_m) if by_norm else threshold_m)
    if function == "topk":
        if by_norm:
            weights.measure_in_decoder_norms()
        return TopK(k_of(stored, hints, stored.config.get("top_k")))
    raise FeaturewatchError(
        f"act_fn {function!r} in {stored.config_path}",
        "relu, jumprelu and topk can be read; batchtopk keeps the largest of a batch, so that a token's latents depend "
        "on other tokens",
        "convert it to jumprelu with llamascopium",
    )


def _scale(stored: Stored, hints: Hints, reader: TensorReader) -> tuple[float, InputNorm]:
    rule = stored.config.get("norm_activation", "dataset-wise")
    if rule == "inference":
        return 1.0, "none"
    if rule == "token-wise":
        return 1.0, "unit_norm"
    if rule != "dataset-wise":
        raise FeaturewatchError(
            f"norm_activation {rule!r} in {stored.config_path}",
            "dataset-wise, token-wise and inference can be read: a token must not depend on its batch",
            "choose another SAE",
        )
    if hints.norm_factor is not None:
        return hints.norm_factor, "none"
    norm = reader.scalar(f"{_NORM}.{stored.config.get('hook_point_in')}")
    if norm <= 0:
        raise FeaturewatchError(
            f"{_NORM} {norm:g} in {stored.weights}", "the mean norm of activations is above 0", "say --norm-factor"
        )
    return math.sqrt(reader.d) / norm, "none"


FAMILY = Family(NAME, _recognises, _load)
