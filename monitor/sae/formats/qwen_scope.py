"""Qwen-Scope: ``SAE-Res-<model>-W<N>K-L0_<k>/layer<n>.sae.pt``; model, width and k are in the repository's name."""

from __future__ import annotations

import re
from typing import Final

from monitor.sae.activation import TopK
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.family import Family, k_of, model_of, normal_form, place_of
from monitor.sae.formats.stored import Hints, Stored
from monitor.sae.formats.weights import TensorReader, Weights

NAME: Final = "Qwen-Scope"
_REPOSITORY = re.compile(r"SAE-Res-([^/]+)-W([0-9]+)K-L0_([0-9]+)")
_LAYER = re.compile(r"layer([0-9]+)\.sae\.pt$")


def _recognises(stored: Stored) -> bool:
    return stored.weights.suffix == ".pt" and set(stored.tensors) == {"W_enc", "W_dec", "b_enc", "b_dec"}


def _load(stored: Stored, hints: Hints) -> Dictionary:
    """``f = topk(relu(x W_enc^T + b_enc))``; no b_dec is subtracted. W_enc lies [m, d], W_dec [d, m]."""
    repository, layer = _REPOSITORY.search(stored.place), _LAYER.search(stored.weights.name)
    reader = TensorReader(
        stored, latents="b_enc", width="b_dec", m=int(repository.group(2)) * 1024 if repository else None
    )
    weights = Weights(
        reader.matrix("W_enc", "md"),
        reader.vector("b_enc", "m"),
        reader.matrix("W_dec", "dm"),
        reader.vector("b_dec", "d"),
    )
    reader.finish()
    k = k_of(stored, hints, int(repository.group(3)) if repository else None)
    return normal_form(
        weights,
        TopK(k),
        stored,
        hook_point=place_of(stored, hints, f"resid_post.{layer.group(1)}" if layer else None),
        model=model_of(stored, hints, f"Qwen/{repository.group(1)}" if repository else None),
        family=NAME,
    )


FAMILY = Family(NAME, _recognises, _load)
