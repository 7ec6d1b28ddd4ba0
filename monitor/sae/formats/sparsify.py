"""EleutherAI sparsify: ``<hook point>/cfg.json`` and ``sae.safetensors`` (encoder [m, d], W_dec [m, d])."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from monitor.errors import FeaturewatchError
from monitor.sae.activation import Activation, GroupMax, TopK
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.family import Family, k_of, model_of, normal_form, place_of
from monitor.sae.formats.stored import Hints, Stored, read_config
from monitor.sae.formats.weights import TensorReader, Weights

NAME: Final = "EleutherAI sparsify"
_HOOK = re.compile(r"(?:layers|h)\.[0-9]+(?:\.[a-z_.]+)?|embed_tokens|wte")


def _recognises(stored: Stored) -> bool:
    return stored.has("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def _load(stored: Stored, hints: Hints) -> Dictionary:
    """b_dec is subtracted whatever `normalize_decoder` says, and W_dec lies [m, d]; sae-lens' reader does otherwise."""
    config = stored.config
    d_in = config.get("d_in")
    expansion = config.get("expansion_factor")
    latents = config.get("num_latents") or (d_in * expansion if d_in and expansion else None)
    reader = TensorReader(stored, latents="encoder.bias", width="b_dec", d=d_in, m=latents)
    weights = Weights(
        reader.matrix("encoder.weight", "md"),
        reader.vector("encoder.bias", "m"),
        reader.matrix("W_dec", "md"),
        reader.vector("b_dec", "d"),
    )
    reader.finish()
    weights.subtract_b_dec()
    place = [part for part in Path(stored.place).parts if _HOOK.fullmatch(part)]
    return normal_form(
        weights,
        _activation(stored, hints),
        stored,
        hook_point=place_of(stored, hints, *place[-1:]),
        model=model_of(stored, hints, _run_model(stored.weights.parent)),
        family=NAME,
    )


def _activation(stored: Stored, hints: Hints) -> Activation:
    config = stored.config
    if config.get("signed"):
        raise FeaturewatchError(
            f"signed SAE in {stored.config_path}",
            "latents of the normal form are never negative",
            "choose an SAE that was trained without signed",
        )
    k = k_of(stored, hints, config.get("k"))
    rule = config.get("activation", "topk")
    if rule == "topk":
        return TopK(k)
    if rule == "groupmax":
        return GroupMax(k)
    raise FeaturewatchError(
        f"activation {rule!r} in {stored.config_path}", "topk and groupmax can be read", "choose another SAE"
    )


def _run_model(folder: Path) -> object:
    """The run's own configuration lies above the hook points (and above ``seedN`` folders)."""
    for above in (folder.parent, folder.parent.parent):
        if (above / "config.json").is_file():
            return read_config(above / "config.json").get("model")
    return None


FAMILY = Family(NAME, _recognises, _load)
