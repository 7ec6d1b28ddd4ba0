"""OpenAI's sparse_autoencoder: one ``.pt`` state dict with the name of its activation in it.

With TopK the input is layer-normed and the output brought back; ``pre = (x - pre_bias) We^T + latent_bias``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from monitor.errors import FeaturewatchError
from monitor.sae.activation import Activation, Relu, TopK
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.family import Family, k_of, model_of, normal_form, place_of
from monitor.sae.formats.stored import Hints, Stored
from monitor.sae.formats.weights import TensorReader, Weights

NAME: Final = "OpenAI sparse_autoencoder"
_STATISTICS: Final = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_PATH = re.compile(r"([^/]+)/(resid_post_mlp|resid_delta_attn|resid_delta_mlp)[^/]*/(?:autoencoders/)?([0-9]+)\.pt$")
_SITES: Final = {"resid_post_mlp": "resid_post", "resid_delta_attn": "attn_out", "resid_delta_mlp": "mlp_out"}


def _recognises(stored: Stored) -> bool:
    return stored.has("pre_bias", "latent_bias", "encoder.weight")


def _load(stored: Stored, hints: Hints) -> Dictionary:
    reader = TensorReader(stored, latents="latent_bias", width="pre_bias")
    w_enc_md = reader.matrix("encoder.weight", "md")
    # Tied weights are stored once.
    w_dec_md = reader.matrix("decoder.weight", "dm") if stored.has("decoder.weight") else w_enc_md
    weights = Weights(w_enc_md, reader.vector("latent_bias", "m"), w_dec_md, reader.vector("pre_bias", "d"))
    reader.finish(ignored=(*_STATISTICS, "decoder.linear.weight"))
    weights.subtract_b_dec()
    activation = _activation(stored, hints)
    path = _PATH.search(stored.place)
    return normal_form(
        weights,
        activation,
        stored,
        hook_point=place_of(stored, hints, f"{_SITES[path.group(2)]}.{path.group(3)}" if path else None),
        model=model_of(stored, hints, path.group(1) if path else None),
        family=NAME,
        input_norm="layer_norm" if isinstance(activation, TopK) else "none",
    )


def _activation(stored: Stored, hints: Hints) -> Activation:
    name: Any = stored.values.get("activation", "ReLU")
    state = stored.values.get("activation_state_dict", {})
    if name == "ReLU":
        return Relu()
    after = state.get("postact_fn", "ReLU") if isinstance(state, Mapping) else None
    if name != "TopK" or after != "ReLU":
        raise FeaturewatchError(
            f"activation {name!r} followed by {after!r} in {stored.weights}",
            "ReLU, and TopK followed by ReLU can be read: latents of the normal form are never negative",
            "choose another SAE",
        )
    return TopK(k_of(stored, hints, state.get("k")))


FAMILY = Family(NAME, _recognises, _load)
