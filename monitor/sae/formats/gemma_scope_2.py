"""Gemma Scope 2: ``<site>/layer_N_width_W_l0_L/params.safetensors`` with lower-case names, and ``config.json``."""

from __future__ import annotations

import re
from typing import Final

from monitor.errors import FeaturewatchError
from monitor.sae.activation import JumpRelu
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.family import Family, model_of, normal_form, place_of
from monitor.sae.formats.stored import Hints, Stored
from monitor.sae.formats.weights import TensorReader, Weights

NAME: Final = "Gemma Scope 2"
_PATH = re.compile(r"(?:^|/)(resid_post|attn_out|mlp_out)[a-z_]*/layer_([0-9]+)_")
_REPOSITORY = re.compile(r"gemma-scope-2-([0-9a-z]+-(?:pt|it))")
# Their attn_out is the input of o_proj.
_SITES: Final = {"resid_post": "resid_post", "attn_out": "attn_z", "mlp_out": "mlp_out"}


def _recognises(stored: Stored) -> bool:
    return stored.weights.suffix == ".safetensors" and stored.has("w_enc", "w_dec", "threshold")


def _load(stored: Stored, hints: Hints) -> Dictionary:
    config = stored.config
    architecture = config.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise FeaturewatchError(
            f"architecture {architecture!r} in {stored.config_path}", f"{NAME} has jump_relu", "download the SAE again"
        )
    reader = TensorReader(stored, latents="b_enc", width="b_dec")
    weights = Weights(
        reader.matrix("w_enc", "dm"),
        reader.vector("b_enc", "m"),
        reader.matrix("w_dec", "md"),
        reader.vector("b_dec", "d"),
    )
    threshold_m = reader.vector("threshold", "m")
    reader.finish()
    path, repository = _PATH.search(stored.place), _REPOSITORY.search(stored.place)
    return normal_form(
        weights,
        JumpRelu(threshold_m),
        stored,
        hook_point=place_of(
            stored, hints, config.get("hf_hook_point_in"), f"{_SITES[path.group(1)]}.{path.group(2)}" if path else None
        ),
        model=model_of(
            stored,
            hints,
            _model(config.get("model_name") or (f"gemma-3-{repository.group(1)}" if repository else None)),
        ),
        family=NAME,
    )


def _model(name: object) -> str | None:
    """On the Hub models have an owner, no v before the version, and the smallest no -pt (as sae-lens has it too)."""
    if not isinstance(name, str) or not name:
        return None
    name = (name if "google" in name else f"google/{name}").replace("-v3", "-3")
    return name.replace("-pt", "") if "270m" in name else name


FAMILY = Family(NAME, _recognises, _load)
