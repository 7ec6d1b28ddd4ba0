"""Measures a dictionary and fills in its card."""

from __future__ import annotations

from dataclasses import asdict

from monitor.sae import Dictionary, JumpRelu
from training.card.card import Card
from training.card.cross_entropy import CrossEntropy
from training.card.heldout import HeldoutRows
from training.card.reconstruction import measure_reconstruction
from training.harvest.manifest import Manifest
from training.trainer.config import TrainConfig
from training.trainer.export import require_l0
from training.trainer.train import TrainedSae


def make_card(
    dictionary: Dictionary,
    trained: TrainedSae,
    rows: HeldoutRows,
    loss: CrossEntropy,
    *,
    manifest: Manifest,
    config: TrainConfig,
) -> Card:
    """The card of a dictionary in its stored form; stored dtype, command and hash are still to be filled in.

    Raises:
        FeaturewatchError: its L0 on held-out rows is off the target.
    """
    point = dictionary.hook_point
    kept = measure_reconstruction(dictionary, rows.report(point))
    require_l0(kept.l0, config.k, config.threshold_tolerance, point)
    everything = measure_reconstruction(dictionary, rows.report(point, outliers=True))
    factor = manifest.settings["outlier_factor"]
    threshold = float(dictionary.activation.threshold_m[0]) if isinstance(dictionary.activation, JumpRelu) else 0.0
    return Card(
        model=dictionary.model,
        hook_point=str(point),
        latents=dictionary.num_latents,
        width=dictionary.width,
        k=config.k,
        tokens_seen=trained.rows,
        tokens_unique=manifest.rows,
        sources=manifest.sources,
        excluded={reason: count for reason, count in manifest.counts.items() if reason not in ("kept", "padding")},
        outliers_by_hook_point=manifest.outliers_by_hook_point,
        outlier_rule=(
            f"Outliers are rows whose norm at a harvested hook point is above {factor:g} times the median there ("
            + ", ".join(f"{name}: median {median:.1f}" for name, median in manifest.medians.items())
            + f"), or with a value that {manifest.store_dtype} cannot hold."
        ),
        l0_training=trained.l0,
        l0_inference=kept.l0,
        threshold=threshold,
        fvu_training=trained.fvu,
        explained_variance=kept.explained_variance,
        explained_variance_with_outliers=everything.explained_variance,
        heldout_rows=kept.rows,
        heldout_rows_with_outliers=everything.rows,
        dead_share=trained.dead_share,
        silent_share=kept.silent_share,
        density_quantiles=list(kept.density_quantiles),
        cross_entropy={
            **asdict(loss),
            "recovered": loss.recovered,
            "recovered_from_mean": loss.recovered_from_mean,
        },
        harvest_dtype=manifest.forward_dtype,
        stored_dtype="",
        settings={"harvest": manifest.settings, "training": asdict(config), "made_from": manifest.identity},
        seconds={"harvest": manifest.seconds, "training": trained.seconds},
        command="",
        sha256="",
    )
