"""Fits the detectors of one hook point: a dense probe, an SAE probe and a set of single latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.sae import Dictionary, HookPoint, JumpRelu
from training.discovery.config import DiscoverConfig
from training.discovery.cross_source import choose_l2, folds_by_source
from training.discovery.latents import LatentRanking, latent_scores, rank_latents
from training.discovery.online import eligible, prompt_scores, rolling_mean
from training.discovery.probes import LinearProbe, SmoothedRows, fit_probe, sample_rows
from training.discovery.prompt import Prompt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_STRENGTHS = (1e-3, 1e-2, 1e-1, 3e-1, 1.0)
_ROWS_PER_PROMPT = 10


@dataclass(frozen=True)
class Detectors:
    """What was fitted at one hook point, on the train split.

    Attributes:
        sae: id of its SAE.
        dictionary: that SAE.
        ranking: of its latents.
        dense: probe on the residual.
        probe_latents: latents of the SAE probe.
        sae_probe: its weights over them.
        set_latents: latents of the set, the best separating first.
        set_weights: their weights: one over the spread of their scores.
        unseen_sources: AUROC of the probes on train sources that were held out of their fit; NaN if there are too few.
        l2: chosen strength per probe.
    """

    sae: str
    dictionary: Dictionary
    ranking: LatentRanking
    dense: LinearProbe
    probe_latents: Ints
    sae_probe: LinearProbe
    set_latents: Ints
    set_weights: Floats
    unseen_sources: dict[str, float]
    l2: dict[str, float]

    @property
    def hook_point(self) -> HookPoint:
        return self.dictionary.hook_point

    def token_scores(self, rows_nd: Floats) -> dict[str, Floats]:
        """Scores [n] of each detector per residual row, by detector id; `single` is the best latent alone."""
        probe_nk = encode_some(self.dictionary, rows_nd, self.probe_latents)
        set_nk = encode_some(self.dictionary, rows_nd, self.set_latents)
        return {
            "dense": self.dense.scores(rows_nd),
            "sae_probe": self.sae_probe.scores(probe_nk),
            "latents": set_nk @ self.set_weights,
            "single": set_nk[:, 0],
        }


def encode_some(dictionary: Dictionary, rows_nd: Floats, latents_k: Ints) -> Floats:
    """Latents [n, k] of the chosen indices only."""
    activation = dictionary.activation
    if isinstance(activation, JumpRelu):
        activation = JumpRelu(activation.threshold_m[latents_k])
    part = dataclasses.replace(
        dictionary,
        w_enc_md=np.ascontiguousarray(dictionary.w_enc_md[latents_k]),
        b_enc_m=dictionary.b_enc_m[latents_k],
        w_dec_md=dictionary.w_dec_md[latents_k],
        activation=activation,
    )
    return part.encode(rows_nd)


def fit_detectors(
    sae: str,
    dictionary: Dictionary,
    rows_nd: Floats,
    starts_p1: Ints,
    *,
    prompts: Sequence[Prompt],
    config: DiscoverConfig,
) -> Detectors:
    """Fits on `prompts` (the train split only) with their content rows."""
    positive_p = np.array([prompt.is_positive for prompt in prompts])
    scores_pm = latent_scores(dictionary, rows_nd, starts_p1, window=config.window, min_tokens=config.min_tokens)
    ranking = rank_latents(scores_pm, positive_p)
    probe_latents, set_latents = ranking.strongest(config.probe_latents), ranking.highest(config.single_latents)
    dense, dense_l2, dense_unseen = _probe(rows_nd, starts_p1, prompts, config)
    # The ranking uses labels, so a fold that holds sources out ranks without them.
    folds = folds_by_source(positive_p, [prompt.source for prompt in prompts])
    of_fold = [rank_latents(scores_pm[~held], positive_p[~held]).strongest(config.probe_latents) for held in folds]
    union = np.unique(np.concatenate([probe_latents, *of_fold]))
    probe_nk = encode_some(dictionary, rows_nd, union)
    sae_probe, sae_l2, sae_unseen = _probe(
        probe_nk,
        starts_p1,
        prompts,
        config,
        final=np.searchsorted(union, probe_latents),
        columns=[np.searchsorted(union, latents) for latents in of_fold],
    )
    set_nk = rolling_mean(encode_some(dictionary, rows_nd, set_latents), starts_p1, config.window)
    spread_k = set_nk[eligible(starts_p1, config.min_tokens)].std(0)
    return Detectors(
        sae=sae,
        dictionary=dictionary,
        ranking=ranking,
        dense=dense,
        probe_latents=probe_latents,
        sae_probe=sae_probe,
        set_latents=set_latents,
        set_weights=np.asarray(1 / np.maximum(spread_k, 1e-6), np.float32),
        unseen_sources={"dense": dense_unseen, "sae_probe": sae_unseen},
        l2={"dense": dense_l2, "sae_probe": sae_l2},
    )


def _probe(  # noqa: PLR0917
    values_nk: Floats,
    starts_p1: Ints,
    prompts: Sequence[Prompt],
    config: DiscoverConfig,
    final: Ints | None = None,
    columns: Sequence[Ints] | None = None,
) -> tuple[LinearProbe, float, float]:
    """A probe on rolling means of `values_nk`, its strength and its AUROC on unseen sources.

    `final` are the columns of the probe itself, `columns` those of each fold; by default all.
    """
    chosen_n = sample_rows(starts_p1, config.min_tokens, _ROWS_PER_PROMPT)
    rows = SmoothedRows(
        rolling_mean(values_nk, starts_p1, config.window)[chosen_n],
        np.searchsorted(starts_p1, chosen_n, side="right") - 1,
        np.array([prompt.is_positive for prompt in prompts]),
        tuple(prompt.source for prompt in prompts),
    )

    def score(probe: LinearProbe) -> Floats:
        return prompt_scores(probe.scores(values_nk), starts_p1, config.window, config.min_tokens)

    l2, unseen = choose_l2(rows, score, _STRENGTHS, columns)
    if final is not None:
        rows = dataclasses.replace(rows, means_nk=rows.means_nk[:, final])
    return fit_probe(rows, l2), l2, unseen
