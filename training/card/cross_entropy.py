"""What the model loses in next-token prediction when a dictionary's reconstruction takes the residual's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint
from training.harvest.batches import TokenBatch, make_batches
from training.harvest.compute import forward_device
from training.harvest.model_config import text_part
from training.harvest.network import find_layers, load_whole_network
from training.harvest.tokens import Reason, TokenSequence

_LOGITS = 2**28  # values of one batch, 1 GiB in float32; a single longer sequence is still run whole

Replace = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


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
    model: str, dictionaries: Mapping[HookPoint, Dictionary], sequences: Sequence[TokenSequence], batch_tokens: int
) -> dict[HookPoint, CrossEntropy]:
    """Runs the whole model in float32, once clean and three times per dictionary.

    Raises:
        FeaturewatchError: the sequences hold nothing whose prediction a dictionary could change.
    """
    network = load_whole_network(model, torch.float32).to(forward_device()).eval()
    layers = find_layers(network.base_model, model)
    batches = list(make_batches(sequences, min(batch_tokens, _LOGITS // text_part(network.config).vocab_size)))
    tokens, clean = _loss(network, batches, None, None)
    if not tokens:
        raise _too_little(sequences)
    found = {}
    for point, dictionary in dictionaries.items():
        replacements: dict[str, Replace] = {
            "spliced": lambda x, sae=dictionary: sae.decode(sae.encode(x)),  # type: ignore[misc]
            "zeroed": np.zeros_like,
            "averaged": lambda x, sae=dictionary: np.broadcast_to(sae.b_dec_d, x.shape),  # type: ignore[misc]
        }
        losses = {
            key: _loss(network, batches, layers[point.layer], replace)[1] for key, replace in replacements.items()
        }
        if clean in (losses["zeroed"], losses["averaged"]):
            raise _too_little(sequences)
        found[point] = CrossEntropy(tokens=tokens, clean=clean, **losses)
    return found


def _too_little(sequences: Sequence[TokenSequence]) -> FeaturewatchError:
    return FeaturewatchError(
        f"{len(sequences)} held-out sequences",
        "they hold too little text to measure what the model loses with a dictionary in place",
        "harvest longer documents, or raise --heldout-share and --loss-tokens",
    )


@torch.inference_mode()
def _loss(network: Any, batches: Sequence[TokenBatch], layer: Any, replace: Replace | None) -> tuple[int, float]:
    """Predicted kept tokens and their mean loss."""
    total, count = 0.0, 0
    for batch in batches:
        handle = None
        if layer is not None and replace is not None:
            handle = layer.register_forward_hook(_splice(batch.reasons_bt == Reason.KEPT, replace))
        try:
            token_ids_bt = torch.from_numpy(batch.token_ids_bt).to(network.device)
            logits_btv = network(input_ids=token_ids_bt, use_cache=False).logits
        finally:
            if handle is not None:
                handle.remove()
        predicted_bt = torch.from_numpy(batch.reasons_bt[:, 1:] == Reason.KEPT).to(network.device)
        losses = torch.nn.functional.cross_entropy(
            logits_btv[:, :-1][predicted_bt], token_ids_bt[:, 1:][predicted_bt], reduction="sum"
        )
        total += float(losses)
        count += int(predicted_bt.sum())
    return count, total / count if count else 0.0


def _splice(kept_bt: npt.NDArray[np.bool_], replace: Replace) -> Any:
    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden_btd: Tensor = output[0] if isinstance(output, tuple) else output
        mask_bt = torch.from_numpy(kept_bt).to(hidden_btd.device)
        rows_nd = replace(hidden_btd[mask_bt].float().cpu().numpy())
        changed_btd = hidden_btd.clone()
        changed_btd[mask_bt] = torch.from_numpy(np.array(rows_nd, np.float32)).to(hidden_btd)
        return (changed_btd, *output[1:]) if isinstance(output, tuple) else changed_btd

    return hook
