"""Gemma Scope 1: ``layer_N/width_W/average_l0_X/params.npz``; model, site and layer are in the path alone.

The forward pass subtracts no b_dec: ``f = pre`` where ``pre = x W_enc + b_enc > threshold`` and positive. Embedding
SAEs read ``x / sqrt(d)`` and decode with ``sqrt(d) W_dec``, where x is the scaled embedding that enters layer 0.
"""

from __future__ import annotations

import math
import re
from typing import Final

from monitor.errors import FeaturewatchError
from monitor.sae.activation import JumpRelu
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.family import Family, model_of, normal_form, place_of
from monitor.sae.formats.stored import Hints, Stored
from monitor.sae.formats.weights import TensorReader, Weights

NAME: Final = "Gemma Scope"
_REPOSITORY = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att)(?![a-z])")
_LAYER = re.compile(r"(?:^|/)layer_([0-9]+)(?:/|$)")
_WIDTH = re.compile(r"(?:^|/)width_([0-9]+)(k|m)(?:/|$)")
_L0 = re.compile(r"(?:^|/)average_l0_([0-9]+)(?:/|$)")
_SITES: Final = {"res": "resid_post", "mlp": "mlp_out", "att": "attn_z"}
_D_MODEL: Final = {"2b": 2304, "9b": 3584, "27b": 4608}
_D_HEADS: Final = {"2b": 2048, "9b": 4096, "27b": 4608}


def _recognises(stored: Stored) -> bool:
    return stored.weights.suffix == ".npz" and {"w_enc", "w_dec"} <= {name.lower() for name in stored.tensors}


def _load(stored: Stored, hints: Hints) -> Dictionary:
    repository, layer = _REPOSITORY.search(stored.place), _LAYER.search(stored.place)
    embedding = "/embedding/" in f"/{stored.place}/"
    size, kind, site = repository.groups() if repository else ("", "", "")
    reader = TensorReader(
        stored,
        latents="b_enc",
        width="b_dec",
        d=(_D_HEADS if site == "att" else _D_MODEL)[size] if size else None,
        m=_latents(stored.place),
    )
    w_enc, w_dec = (name if name in stored.tensors else name.lower() for name in ("W_enc", "W_dec"))
    weights = Weights(
        reader.matrix(w_enc, "dm"), reader.vector("b_enc", "m"), reader.matrix(w_dec, "md"), reader.vector("b_dec", "d")
    )
    threshold_m = reader.vector("threshold", "m")
    reader.finish()
    if embedding:
        weights.scale_input(1 / math.sqrt(reader.d))
        weights.w_dec_md *= math.sqrt(reader.d)
    point = "resid_pre.0" if embedding else f"{_SITES[site]}.{layer.group(1)}" if site and layer else None
    l0 = _L0.search(stored.place)
    return normal_form(
        weights,
        JumpRelu(threshold_m),
        stored,
        hook_point=place_of(stored, hints, point),
        model=model_of(stored, hints, f"google/gemma-2-{size}{'-it' if kind == 'it' else ''}" if size else None),
        family=NAME,
        metadata={"l0": int(l0.group(1))} if l0 else {},
    )


def _latents(place: str) -> int | None:
    """The path rounds to thousands; all widths are powers of two."""
    match = _WIDTH.search(place)
    if match is None:
        return None
    rounded = int(match.group(1)) * (1 << 10 if match.group(2) == "k" else 1 << 20)
    latents = 1 << round(math.log2(rounded))
    if abs(latents / rounded - 1) > 0.1:
        raise FeaturewatchError(
            f"width {match.group(0).strip('/')} in {place}", "widths of Gemma Scope are powers of two", "check the path"
        )
    return latents


FAMILY = Family(NAME, _recognises, _load)
