"""What the model loses in next-token prediction when a dictionary's reconstruction takes the residual's place."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary
from training.evaluation.replace import replacing
from training.harvest.batches import TokenBatch, make_batches
from training.harvest.compute import forward_device
from training.harvest.model_config import text_part
from training.harvest.network import find_layers, load_whole_network
from training.harvest.places import find_places
from training.harvest.sites import Place
from training.harvest.tokens import Reason, TokenSequence

_LOGITS = 2**28  # values of one batch, 1 GiB in float32; a single longer sequence is still run whole

Floats = npt.NDArray[np.float32]
Key = TypeVar("Key", bound=Hashable)
Replace = Callable[[Floats], Floats]


@dataclass(frozen=True)
class CrossEntropy:
    """Mean next-token losses in nats.

    Attributes:
        tokens: predicted tokens.
        clean: the model as it is.
        spliced: kept rows replaced by their reconstruction.
        zeroed: kept rows replaced by 0.
        averaged: kept rows replaced by the decoder bias, about their mean.
    """

    tokens: int
    clean: float
    spliced: float
    zeroed: float
    averaged: float

    @property
    def recovered(self) -> float:
        """1 is the clean model, 0 is zeroed rows."""
        return (self.zeroed - self.spliced) / (self.zeroed - self.clean)

    @property
    def recovered_from_mean(self) -> float:
        """1 is the clean model, 0 is averaged rows."""
        return (self.averaged - self.spliced) / (self.averaged - self.clean)


def measure_cross_entropy(
    model: str, dictionaries: Mapping[Key, Dictionary], sequences: Sequence[TokenSequence], batch_tokens: int
) -> dict[Key, CrossEntropy]:
    """Runs the whole model in float32, once clean, once per hook point and twice per dictionary.

    Raises:
        FeaturewatchError: the sequences hold nothing whose prediction a dictionary could change.
    """
    network = load_whole_network(model, torch.float32).to(forward_device()).eval()
    points = sorted({dictionary.hook_point for dictionary in dictionaries.values()})
    places = find_places(network.base_model, find_layers(network.base_model, model), points, model)
    batches = list(make_batches(sequences, min(batch_tokens, _LOGITS // text_part(network.config).vocab_size)))
    tokens, clean = _loss(network, batches, None, None)
    if not tokens:
        raise _too_little(sequences)
    zeroed = {point: _loss(network, batches, place, np.zeros_like)[1] for point, place in places.items()}
    found = {}
    for key, dictionary in dictionaries.items():
        place = places[dictionary.hook_point]
        spliced = _loss(network, batches, place, _reconstruction(dictionary))[1]
        averaged = _loss(network, batches, place, _constant(dictionary.b_dec_d))[1]
        losses = {"spliced": spliced, "averaged": averaged, "zeroed": zeroed[dictionary.hook_point]}
        if clean in (losses["zeroed"], losses["averaged"]):
            raise _too_little(sequences)
        found[key] = CrossEntropy(tokens=tokens, clean=clean, **losses)
    return found


def _reconstruction(dictionary: Dictionary) -> Replace:
    return lambda rows_nd: dictionary.decode(dictionary.encode(rows_nd), rows_nd)


def _constant(row_d: Floats) -> Replace:
    return lambda rows_nd: np.broadcast_to(row_d, rows_nd.shape)


def _too_little(sequences: Sequence[TokenSequence]) -> FeaturewatchError:
    return FeaturewatchError(
        f"{len(sequences)} held-out sequences",
        "they hold too little text to measure what the model loses with a dictionary in place",
        "harvest longer documents, or raise --heldout-share and --loss-tokens",
    )


@torch.inference_mode()
def _loss(
    network: Any, batches: Sequence[TokenBatch], place: Place | None, replace: Replace | None
) -> tuple[int, float]:
    """Predicted kept tokens and their mean loss."""
    total, count = 0.0, 0
    for batch in batches:
        kept_bt = batch.reasons_bt == Reason.KEPT
        token_ids_bt = torch.from_numpy(batch.token_ids_bt).to(network.device)
        with replacing(place, kept_bt, replace) if place and replace else nullcontext():
            logits_btv = network(input_ids=token_ids_bt, use_cache=False).logits
        predicted_bt = torch.from_numpy(kept_bt[:, 1:]).to(network.device)
        losses = torch.nn.functional.cross_entropy(
            logits_btv[:, :-1][predicted_bt], token_ids_bt[:, 1:][predicted_bt], reduction="sum"
        )
        total += float(losses)
        count += int(predicted_bt.sum())
    return count, total / count if count else 0.0
