"""Losses of next-token predictions: sums per sequence, and the figures that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from training.evaluation.figure import Figure, Sums, bootstrapped, mean_figure

_CHUNK_LOGITS = 2**25


@dataclass(frozen=True)
class Splice:
    """Mean next-token losses and divergences in nats.

    The rows that the dictionary is meant for are replaced, all others stay. `zeroed` and `averaged` replace them by 0
    and by their mean.

    Attributes:
        tokens: predicted tokens.
        clean, spliced, zeroed, averaged: cross-entropy.
        recovered: ``(zeroed - spliced) / (zeroed - clean)``; 1 is the clean model, 0 is zeroed rows.
        recovered_from_mean: the same against averaged rows, which are harder to beat.
        kl_spliced, kl_zeroed, kl_averaged: KL divergence of the model's prediction from the clean one,
            ``sum p_clean log(p_clean / p)``.
        kl_recovered: ``1 - kl_spliced / kl_zeroed``.
        kl_recovered_from_mean: ``1 - kl_spliced / kl_averaged``.
        same_top: share of tokens for which the spliced model's first choice is the clean one's.
    """

    tokens: int
    clean: Figure
    spliced: Figure
    zeroed: Figure
    averaged: Figure
    recovered: Figure
    recovered_from_mean: Figure
    kl_spliced: Figure
    kl_zeroed: Figure
    kl_averaged: Figure
    kl_recovered: Figure
    kl_recovered_from_mean: Figure
    same_top: Figure


class LossSums:
    """Sums of one variant of the model per sequence, [s]."""

    def __init__(self, sequences: int) -> None:
        self.entropy_s = np.zeros(sequences)
        self.divergence_s = np.zeros(sequences)
        self.same_top_s = np.zeros(sequences)

    def add(self, clean_nv: Tensor, changed_nv: Tensor, targets_n: Tensor, sequence_n: npt.NDArray[np.int64]) -> None:
        """Adds predictions [n, v] as logits.

        A chunk of rows at a time: the logarithms of both predictions need as much memory as the predictions.
        """
        step = max(1, _CHUNK_LOGITS // clean_nv.shape[1])
        for start in range(0, len(clean_nv), step):
            chunk = slice(start, start + step)
            log_clean_nv = clean_nv[chunk].log_softmax(-1)
            log_changed_nv = log_clean_nv if changed_nv is clean_nv else changed_nv[chunk].log_softmax(-1)
            entropy_n = -log_changed_nv.gather(1, targets_n[chunk, None])[:, 0]
            divergence_n = (log_clean_nv.exp() * (log_clean_nv - log_changed_nv)).sum(-1)
            same_top_n = log_changed_nv.argmax(-1) == log_clean_nv.argmax(-1)
            self.entropy_s += self._per_sequence(entropy_n, sequence_n[chunk])
            self.divergence_s += self._per_sequence(divergence_n, sequence_n[chunk])
            self.same_top_s += self._per_sequence(same_top_n, sequence_n[chunk])

    def _per_sequence(self, values_n: Tensor, sequence_n: npt.NDArray[np.int64]) -> Sums:
        return np.asarray(np.bincount(sequence_n, values_n.double().cpu().numpy(), len(self.entropy_s)), np.float64)


def splice_figures(tokens_s: Sums, clean: LossSums, parts: Mapping[str, LossSums]) -> Splice:
    """Figures from the predicted tokens of each sequence and the sums of the clean model and of its three variants."""
    used_s = tokens_s > 0
    tokens_s = tokens_s[used_s]
    n = int(tokens_s.sum())
    clean_s = clean.entropy_s[used_s]
    entropy = {name: part.entropy_s[used_s] for name, part in parts.items()}
    divergence = {name: part.divergence_s[used_s] for name, part in parts.items()}

    def recovered(worst: str) -> Figure:
        return bootstrapped(
            lambda bad, spliced, good: (bad - spliced) / (bad - good), [entropy[worst], entropy["spliced"], clean_s], n
        )

    def divergence_recovered(worst: str) -> Figure:
        return bootstrapped(lambda bad, spliced: 1 - spliced / bad, [divergence[worst], divergence["spliced"]], n)

    return Splice(
        tokens=n,
        clean=mean_figure(clean_s, tokens_s),
        recovered=recovered("zeroed"),
        recovered_from_mean=recovered("averaged"),
        kl_recovered=divergence_recovered("zeroed"),
        kl_recovered_from_mean=divergence_recovered("averaged"),
        same_top=mean_figure(parts["spliced"].same_top_s[used_s], tokens_s),
        **{name: mean_figure(sums_s, tokens_s) for name, sums_s in entropy.items()},
        **{f"kl_{name}": mean_figure(sums_s, tokens_s) for name, sums_s in divergence.items()},
    )
