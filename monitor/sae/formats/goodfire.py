"""Goodfire: one ``.pth`` (or ``.pt``) state dict of two linear layers; model and layer are in its name."""

from __future__ import annotations

import re
from typing import Final

from monitor.sae.activation import Relu
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.family import Family, model_of, normal_form, place_of
from monitor.sae.formats.stored import Hints, Stored
from monitor.sae.formats.weights import TensorReader, Weights

NAME: Final = "Goodfire"
_NAME = re.compile(r"([^/]+)-SAE-l([0-9]+)\.pth?$")


def _recognises(stored: Stored) -> bool:
    return stored.has("encoder_linear.weight", "decoder_linear.weight")


def _load(stored: Stored, hints: Hints) -> Dictionary:
    """``f = relu(x We^T + be)``, no b_dec is subtracted."""
    reader = TensorReader(stored, latents="encoder_linear.bias", width="decoder_linear.bias")
    weights = Weights(
        reader.matrix("encoder_linear.weight", "md"),
        reader.vector("encoder_linear.bias", "m"),
        reader.matrix("decoder_linear.weight", "dm"),
        reader.vector("decoder_linear.bias", "d"),
    )
    reader.finish()
    name = _NAME.search(stored.weights.name)
    return normal_form(
        weights,
        Relu(),
        stored,
        hook_point=place_of(stored, hints, f"resid_post.{name.group(2)}" if name else None),
        model=model_of(stored, hints, f"meta-llama/{name.group(1)}" if name else None),
        family=NAME,
    )


FAMILY = Family(NAME, _recognises, _load)
