"""dictionary_learning: ``trainer_i/ae.pt`` (a state dict) and ``config.json``, all seven kinds of dictionary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from monitor.errors import FeaturewatchError
from monitor.sae.activation import Activation, JumpRelu, Relu, TopK
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.family import Family, model_of, normal_form, place_of
from monitor.sae.formats.gated import fold_gate
from monitor.sae.formats.stored import Hints, Stored
from monitor.sae.formats.weights import TensorReader, Weights

NAME: Final = "dictionary_learning"
_LINEAR: Final = {"encoder.weight", "encoder.bias", "decoder.weight"}
_PLAIN: Final = {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}
_KINDS: Final[dict[str, set[str]]] = {
    "AutoEncoder": _LINEAR | {"bias"},
    "AutoEncoderNew": _LINEAR | {"decoder.bias"},
    "GatedAutoEncoder": {"decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight"},
    "JumpReluAutoEncoder": _PLAIN,
    "AutoEncoderTopK": _LINEAR | {"b_dec", "k", "threshold"},
    "BatchTopKSAE": _LINEAR | {"b_dec", "k", "threshold"},
    "MatryoshkaBatchTopKSAE": _PLAIN | {"k", "group_sizes"},
}
_RESID_POST = re.compile(r"resid_post_layer_([0-9]+)")
_WIDTH_NAMES: Final = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}


def _recognises(stored: Stored) -> bool:
    names = set(stored.tensors)
    return "dict_class" in _trainer(stored) or (stored.weights.name == "ae.pt" and names in _KINDS.values())


def _load(stored: Stored, hints: Hints) -> Dictionary:
    trainer = _trainer(stored)
    kind = _kind(stored, trainer)
    plain = "W_enc" in _KINDS[kind]
    latents = "b_enc" if plain else "mag_bias" if kind == "GatedAutoEncoder" else "encoder.bias"
    width = _WIDTH_NAMES.get(kind, "b_dec")
    reader = TensorReader(
        stored, latents=latents, width=width, d=trainer.get("activation_dim"), m=trainer.get("dict_size")
    )
    weights = Weights(
        reader.matrix("W_enc", "dm") if plain else reader.matrix("encoder.weight", "md"),
        reader.vector(latents, "m"),
        reader.matrix("W_dec", "md") if plain else reader.matrix("decoder.weight", "dm"),
        reader.vector(width, "d"),
    )
    activation = _activation(stored, kind, reader, weights)
    reader.finish(ignored=("k", "threshold", "group_sizes"))
    if kind not in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        weights.subtract_b_dec()
    submodule = trainer.get("submodule_name")
    match = _RESID_POST.fullmatch(submodule) if isinstance(submodule, str) else None
    return normal_form(
        weights,
        activation,
        stored,
        hook_point=place_of(stored, hints, f"resid_post.{match.group(1)}" if match else submodule),
        model=model_of(stored, hints, trainer.get("lm_name")),
        family=NAME,
        metadata={"dict_class": kind},
    )


def _activation(stored: Stored, kind: str, reader: TensorReader, weights: Weights) -> Activation:
    if kind == "GatedAutoEncoder":
        return fold_gate(weights, reader.vector("r_mag", "m"), reader.vector("gate_bias", "m"))
    if kind == "JumpReluAutoEncoder":
        return JumpRelu(reader.vector("threshold", "m"))
    if kind == "AutoEncoderTopK":
        return TopK(int(reader.scalar("k")))
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        threshold = reader.scalar("threshold")
        if threshold < 0:
            raise FeaturewatchError(
                f"{kind} with threshold {threshold:g} in {stored.weights}",
                "a negative one means that its training ended before the threshold was set",
                "train for longer than threshold_start_step",
            )
        return JumpRelu(np.full(reader.m, threshold, np.float32))
    return Relu()


def _trainer(stored: Stored) -> Mapping[str, Any]:
    trainer = stored.config.get("trainer")
    return trainer if isinstance(trainer, dict) else {}


def _kind(stored: Stored, trainer: Mapping[str, Any]) -> str:
    """By the tensors, which are of one class but for two: trainers have been seen to write another's dict_class."""
    said = trainer.get("dict_class")
    if said is not None and said not in _KINDS:
        raise FeaturewatchError(
            f"dict_class {said!r} in {stored.config_path}", f"{', '.join(_KINDS)} can be read", "choose another SAE"
        )
    fitting = [name for name, tensors in _KINDS.items() if tensors == set(stored.tensors)]
    if len(fitting) == 1:
        return fitting[0]
    if said is not None and (said in fitting or not fitting):
        return str(said)
    raise FeaturewatchError(
        f"SAE weights {stored.weights} without config.json",
        f"its tensors are those of {' and '.join(fitting)}, which encode in different ways",
        "put the config.json of its training beside it (trainer.dict_class tells)",
    )


FAMILY = Family(NAME, _recognises, _load)
