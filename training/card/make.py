"""Measures a dictionary and fills in its card."""

from __future__ import annotations

import resource
from dataclasses import asdict

import numpy as np

from monitor.sae import Dictionary, JumpRelu
from training.architectures.registry import architecture
from training.card.card import Card
from training.card.heldout import HeldoutRows
from training.card.left_out import outlier_rule
from training.evaluation.measure import measure_rows
from training.evaluation.next_token import Splice
from training.harvest.manifest import Manifest
from training.settings.run_config import RunConfig
from training.trainer.export import has_fitted_threshold, require_l0
from training.trainer.sae_config import SaeConfig
from training.trainer.sae_training import TrainingFigures

_QUANTILES = ("0.01", "0.1", "0.5", "0.9", "0.99")
_LOSSES = ("clean", "spliced", "zeroed", "averaged", "recovered", "recovered_from_mean", "kl_spliced", "kl_recovered")
_ACTIVATIONS = {"JumpRelu": "JumpReLU", "Relu": "ReLU", "TopK": "TopK"}


def make_card(
    dictionary: Dictionary,
    sae: SaeConfig,
    figures: TrainingFigures,
    rows: HeldoutRows,
    loss: Splice,
    *,
    manifest: Manifest,
    config: RunConfig,
) -> Card:
    """The card of a dictionary in its stored form; stored dtype, command and hash are still to be filled in.

    Raises:
        FeaturewatchError: its L0 on held-out rows is off the target that its threshold was fitted for.
    """
    point = dictionary.hook_point
    kept, firing = measure_rows(dictionary, rows.report(point))
    target = sae.target_l0()
    if target is not None and has_fitted_threshold(sae, config.train.inference):
        require_l0(kept.l0.value, target, config.train.threshold_tolerance, point)
    everything, _ = measure_rows(dictionary, rows.report(point, outliers=True))
    thresholds_m = dictionary.activation.threshold_m if isinstance(dictionary.activation, JumpRelu) else np.zeros(1)
    low, high = float(thresholds_m.min()), float(thresholds_m.max())
    kind, _ = architecture(sae.options.architecture)
    name = type(dictionary.activation).__name__
    return Card(
        model=dictionary.model,
        hook_point=str(point),
        latents=dictionary.num_latents,
        width=dictionary.width,
        k=getattr(sae.settings, "k", None),
        tokens_seen=figures.rows,
        # What a stream computed ahead and did not give out any more was not trained on.
        tokens_unique=min(manifest.rows, figures.rows) if config.train.stream else manifest.rows,
        sources=manifest.sources,
        excluded={reason: count for reason, count in manifest.counts.items() if reason not in ("kept", "padding")},
        outliers_by_hook_point=manifest.outliers_by_hook_point,
        outlier_rule=outlier_rule(manifest),
        norm_quantiles=manifest.norm_quantiles,
        l0_training=figures.l0,
        l0_inference=kept.l0.value,
        threshold=float(np.median(thresholds_m)),
        fvu_training=figures.fvu,
        explained_variance=kept.explained_variance.value,
        explained_variance_with_outliers=everything.explained_variance.value,
        heldout_rows=kept.rows,
        heldout_rows_with_outliers=everything.rows,
        dead_share=figures.dead_share,
        silent_share=firing.silent_share,
        density_quantiles=[firing.density_quantiles[share] for share in _QUANTILES],
        cross_entropy={"tokens": loss.tokens, **{name: getattr(loss, name).value for name in _LOSSES}},
        harvest_dtype=manifest.forward_dtype,
        stored_dtype="",
        settings={
            "harvest": manifest.settings,
            "training": {**asdict(config.train), **sae.as_json()},
            "made_from": manifest.identity,
            "engine": manifest.engine,
        },
        seconds={"harvest": manifest.seconds, "training": figures.seconds},
        command="",
        sha256="",
        architecture=sae.options.architecture,
        recipe=kind.title,
        l0_target=target,
        activation=_ACTIVATIONS.get(name, name),
        thresholds=[low, high] if low != high else [],
        losses=figures.losses,
        resampled=figures.resampled,
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
