"""What the model loses in next-token prediction when a reconstruction takes the place of its activations."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint
from training.evaluation.measure import reconstructed
from training.evaluation.next_token import LossSums, Splice, splice_figures
from training.evaluation.replace import replacing
from training.harvest.batches import TokenBatch, make_batches
from training.harvest.compute import forward_device
from training.harvest.model_config import text_part
from training.harvest.network import find_layers, load_whole_network
from training.harvest.places import find_places
from training.harvest.tokens import Reason, TokenSequence
from training.progress import ProgressLine

Floats = npt.NDArray[np.float32]
Key = TypeVar("Key", bound=Hashable)
Replace = Callable[[Floats], Floats]
_LOGITS = 2**27  # values of one batch, 512 MiB in float32; a single longer sequence is still run whole


def measure_splice(
    model: str,
    dictionaries: Mapping[Key, Dictionary],
    means: Mapping[HookPoint, Floats],
    sequences: Sequence[TokenSequence],
    batch_tokens: int,
) -> dict[Key, Splice]:
    """Runs the whole model in float32: per batch once clean, twice per hook point and once per dictionary.

    Args:
        model: Hugging Face folder or id.
        dictionaries: by any name.
        means: mean row [d] of every hook point of theirs.
        sequences: text that the dictionaries were not trained on.
        batch_tokens: per forward pass, padding included; fewer where the vocabulary is large.

    Raises:
        FeaturewatchError: the sequences hold nothing whose prediction a dictionary could change.
    """
    variants: dict[Any, tuple[HookPoint, Replace]] = {}
    for key, dictionary in dictionaries.items():
        point = dictionary.hook_point
        variants["zeroed", point] = (point, np.zeros_like)
        variants["averaged", point] = (point, _constant(means[point]))
        variants["spliced", key] = (point, _reconstruction(dictionary))
    network = load_whole_network(model, torch.float32).to(forward_device()).eval()
    room = max(1, min(batch_tokens, _LOGITS // text_part(network.config).vocab_size))
    run = _Run(network, model, variants, len(sequences))
    done = 0
    with ProgressLine("splice", sum(len(sequence.token_ids_n) for sequence in sequences)) as progress:
        for batch in make_batches(sequences, room):
            run.take(batch)
            done += int((batch.reasons_bt != Reason.PADDING).sum())
            progress.update(done)
    results = {}
    for key, dictionary in dictionaries.items():
        parts = {name: run.found[name, dictionary.hook_point] for name in ("zeroed", "averaged")}
        if run.clean.entropy_s.sum() in (part.entropy_s.sum() for part in parts.values()):
            raise FeaturewatchError(
                f"{len(sequences)} held-out sequences",
                "they hold too little text to measure what the model loses with a dictionary in place",
                "give longer documents, or raise --heldout-share and --loss-tokens",
            )
        results[key] = splice_figures(run.tokens_s, run.clean, {**parts, "spliced": run.found["spliced", key]})
    return results


def _constant(row_d: Floats) -> Replace:
    return lambda rows_nd: np.broadcast_to(row_d, rows_nd.shape)


def _reconstruction(dictionary: Dictionary) -> Replace:
    return lambda rows_nd: reconstructed(dictionary, rows_nd)


class _Run:
    """Takes batches through the network, clean and with every replacement.

    Attributes:
        tokens_s: predicted tokens per sequence, in the order in which they were run.
        clean, found: sums of the clean network and of the variants.
    """

    def __init__(
        self, network: Any, model: str, variants: Mapping[Any, tuple[HookPoint, Replace]], sequences: int
    ) -> None:
        self.tokens_s = np.zeros(sequences)
        self.clean = LossSums(sequences)
        self.found = {variant: LossSums(sequences) for variant in variants}
        self._network, self._variants, self._taken = network, variants, 0
        layers = find_layers(network.base_model, model)
        points = sorted({point for point, _ in variants.values()})
        self._places = find_places(network.base_model, layers, points, model)

    @torch.inference_mode()
    def take(self, batch: TokenBatch) -> None:
        rows_b = self._taken + np.arange(len(batch.token_ids_bt))
        self._taken += len(rows_b)
        predicted_bt = batch.reasons_bt[:, 1:] == Reason.KEPT
        self.tokens_s[rows_b] = predicted_bt.sum(1)
        if not predicted_bt.any():
            return
        token_ids_bt = torch.from_numpy(batch.token_ids_bt).to(self._network.device)
        predicted = torch.from_numpy(predicted_bt).to(self._network.device)
        targets_n = token_ids_bt[:, 1:][predicted]
        sequence_n = np.repeat(rows_b, predicted_bt.sum(1))
        clean_nv = self._logits(token_ids_bt, predicted)
        self.clean.add(clean_nv, clean_nv, targets_n, sequence_n)
        for variant, (point, replace) in self._variants.items():
            with replacing(self._places[point], batch.reasons_bt == Reason.KEPT, replace):
                changed_nv = self._logits(token_ids_bt, predicted)
            self.found[variant].add(clean_nv, changed_nv, targets_n, sequence_n)

    def _logits(self, token_ids_bt: Tensor, predicted_bt: Tensor) -> Tensor:
        """Of the positions before the predicted tokens, [n, v]."""
        logits_btv: Tensor = self._network(input_ids=token_ids_bt, use_cache=False).logits
        return logits_btv[:, :-1][predicted_bt].float()
