"""Linear probes that are trained on the score they will be judged by.

A prompt's score online is the maximum over tokens of a rolling mean of logits. The mean of logits is the logit of the
mean, so probes are fitted on rolling means of activations; the maximum is softened to a softmax-weighted mean over the
prompt's tokens, as in Constitutional Classifiers++ (arXiv 2601.04603), so that a prompt is not required to look harmful
from its first word on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
_STEPS = 60


@dataclass(frozen=True)
class SmoothedRows:
    """Rolling means of activations at sampled positions.

    Attributes:
        means_nk: [n, k].
        prompts_n: int64 [n], the prompt of each row.
        positive_p: label of each prompt.
        sources_p: source of each prompt.
    """

    means_nk: Floats
    prompts_n: npt.NDArray[np.int64]
    positive_p: Bools
    sources_p: tuple[str, ...]

    def where(self, chosen_p: Bools) -> SmoothedRows:
        """The rows of the chosen prompts, prompts numbered anew."""
        numbers_p = np.cumsum(chosen_p) - 1
        rows_n = chosen_p[self.prompts_n]
        return SmoothedRows(
            self.means_nk[rows_n],
            numbers_p[self.prompts_n[rows_n]],
            self.positive_p[chosen_p],
            tuple(source for source, wanted in zip(self.sources_p, chosen_p, strict=True) if wanted),
        )


@dataclass(frozen=True)
class LinearProbe:
    """``weight . x + bias`` in logits."""

    weight_k: Floats
    bias: float

    def scores(self, x_nk: Floats) -> Floats:
        return np.asarray(x_nk @ self.weight_k + self.bias, np.float32)


def sample_rows(starts_p1: npt.NDArray[np.int64], min_tokens: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of at most `most` eligible rows per prompt, evenly spread, the last one always among them."""
    chosen = []
    for start, end in itertools.pairwise(starts_p1.tolist()):
        first = min(start + min_tokens - 1, end - 1)
        if end > start:
            chosen.append(np.unique(np.linspace(first, end - 1, min(most, end - first)).round().astype(np.int64)))
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


def source_weights(positive_p: Bools, sources_p: Sequence[str]) -> Floats:
    """Weights per prompt, [p], mean 1: both labels count the same, a source by the square root of its size."""
    weights_p = np.zeros(len(positive_p))
    sources = np.array(sources_p)
    for label in (False, True):
        chosen_p = positive_p == label
        for source in set(sources[chosen_p].tolist()):
            rows_p = chosen_p & (sources == source)
            weights_p[rows_p] = 1 / np.sqrt(rows_p.sum())
        weights_p[chosen_p] *= 0.5 * len(positive_p) / weights_p[chosen_p].sum()
    return weights_p.astype(np.float32)


def fit_probe(rows: SmoothedRows, l2: float) -> LinearProbe:
    """Weighted logistic regression with softmax pooling over each prompt's rows (L-BFGS, deterministic).

    Args:
        rows: training rows.
        l2: weight of the squared norm, in units of standardised activations.
    """
    mean_k = rows.means_nk.mean(0)
    scale_k = rows.means_nk.std(0) + 1e-6
    x_nk = torch.from_numpy((rows.means_nk - mean_k) / scale_k)
    prompts_n = torch.from_numpy(rows.prompts_n)
    label_p = torch.from_numpy(rows.positive_p.astype(np.float32))
    weight_p = torch.from_numpy(source_weights(rows.positive_p, rows.sources_p))
    weight_k = torch.zeros(x_nk.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight_k, bias], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logits_p = _pooled(x_nk @ weight_k + bias, prompts_n, len(label_p))
        losses_p = torch.nn.functional.binary_cross_entropy_with_logits(logits_p, label_p, reduction="none")
        loss = (losses_p * weight_p).mean() + l2 * weight_k.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    folded_k = weight_k.detach().numpy() / scale_k
    return LinearProbe(folded_k.astype(np.float32), float(bias.detach()) - float(folded_k @ mean_k))


def _pooled(logits_n: torch.Tensor, prompts_n: torch.Tensor, prompts: int) -> torch.Tensor:
    """Softmax-weighted mean of each prompt's logits, [p]."""
    highest_p = torch.full((prompts,), -torch.inf).scatter_reduce(0, prompts_n, logits_n.detach(), "amax")
    shares_n = torch.exp(logits_n - highest_p[prompts_n])
    total_p = torch.zeros(prompts).index_add(0, prompts_n, shares_n)
    return torch.zeros(prompts).index_add(0, prompts_n, shares_n * logits_n) / total_p
