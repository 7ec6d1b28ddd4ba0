"""From trained weights to a dictionary in normal form, as it is at inference."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, JumpRelu, load_saelens, save_saelens
from training.trainer.sae_config import SaeConfig
from training.trainer.sae_training import TrainedSae

Floats = npt.NDArray[np.float32]
_CHUNK_ROWS = 4096


def to_dictionary(trained: TrainedSae, model: str, metadata: Mapping[str, Any] | None = None) -> Dictionary:
    """Folds the input scale and the decoder bias.

    The decoder keeps unit rows, so a latent's activation is its share of the residual in the residual's own units. The
    threshold of a BatchTopK SAE is the training's running estimate until `at_inference` fits it.
    """
    return trained.weights.export(trained.scale, trained.config.hook_point, model, dict(metadata or {}))


def rounded(dictionary: Dictionary, dtype: str) -> Dictionary:
    """The dictionary as it comes back from storage in `dtype`."""
    with tempfile.TemporaryDirectory() as folder:
        return load_saelens(save_saelens(dictionary, Path(folder), dtype=dtype))


def has_fitted_threshold(sae: SaeConfig, inference: str) -> bool:
    """Whether one threshold for all latents takes the place of a cut per row or batch."""
    from training.architectures.registry import architecture

    kind, _ = architecture(sae.options.architecture)
    return kind.needs_threshold or (inference == "threshold" and sae.options.architecture == "topk")


def at_inference(dictionary: Dictionary, sae: SaeConfig, rows_nd: Floats | None, inference: str = "auto") -> Dictionary:
    """The dictionary with its threshold, where it has one that is fitted.

    Args:
        dictionary: of `to_dictionary`, rounded to the dtype of storage.
        sae: what it is.
        rows_nd: held-out rows, on which the threshold is exact; without them the training's running estimate stays.
        inference: of `TrainConfig`.

    Raises:
        FeaturewatchError: a TopK SAE is to get a threshold and there are no rows, or fewer than k pre-activations per
            row are positive.
    """
    target = sae.target_l0()
    if target is None or not has_fitted_threshold(sae, inference):
        return dictionary
    if rows_nd is not None:
        return with_threshold(dictionary, rows_nd, target)
    if not isinstance(dictionary.activation, JumpRelu):
        raise FeaturewatchError(
            f"inference threshold of {sae.options.architecture} at {dictionary.hook_point}",
            "its training has no running estimate of one",
            "give held-out rows, or leave inference at topk",
        )
    return dictionary


def with_threshold(dictionary: Dictionary, rows_nd: Floats, k: float) -> Dictionary:
    """Sets the one threshold at which exactly k latents per row fire on `rows_nd`.

    It is the quantile of the pooled pre-activations, so no running average with its bias is involved.

    Raises:
        FeaturewatchError: fewer than k pre-activations per row are positive.
    """
    count = round(k * len(rows_nd))
    floor = _likely_floor(dictionary, rows_nd[:_CHUNK_ROWS], k)
    values = _sorted_above(dictionary, rows_nd, floor)
    if len(values) <= count and floor > 0:
        values = _sorted_above(dictionary, rows_nd, 0.0)
    if len(values) <= count:
        raise FeaturewatchError(
            f"SAE at {dictionary.hook_point} with {len(values) / len(rows_nd):.1f} positive latents per row",
            f"a threshold for k = {k:g} needs more",
            "train with a smaller k or for longer",
        )
    threshold = 0.5 * (float(values[count - 1]) + float(values[count]))
    threshold_m = np.full(dictionary.num_latents, threshold, np.float32)
    return dataclasses.replace(dictionary, activation=JumpRelu(threshold_m))


def _likely_floor(dictionary: Dictionary, rows_nd: Floats, k: float) -> float:
    """Half of these rows' own cut: low enough for most other rows, and it leaves little to be sorted."""
    pre_x = _pre_activations(dictionary, rows_nd).ravel()
    rank = min(len(pre_x) - 1, round(k * len(rows_nd)))
    return max(0.0, 0.5 * float(-np.partition(-pre_x, rank)[rank]))


def _sorted_above(dictionary: Dictionary, rows_nd: Floats, floor: float) -> Floats:
    """All pre-activations above a floor, the largest first."""
    kept = []
    for start in range(0, len(rows_nd), _CHUNK_ROWS):
        pre_nm = _pre_activations(dictionary, rows_nd[start : start + _CHUNK_ROWS])
        kept.append(pre_nm[pre_nm > floor])
    return np.sort(np.concatenate(kept))[::-1]


def _pre_activations(dictionary: Dictionary, rows_nd: Floats) -> Floats:
    pre_nm: Floats = rows_nd @ dictionary.w_enc_md.T + dictionary.b_enc_m
    return pre_nm


def require_l0(l0: float, k: float, tolerance: float, hook_point: HookPoint) -> None:
    """Raises FeaturewatchError when the L0 at inference is off its target."""
    if abs(l0 / k - 1) > tolerance:
        raise FeaturewatchError(
            f"SAE at {hook_point} with L0 {l0:.2f} at inference",
            f"it must lie within {100 * tolerance:g}% of k = {k:g} on held-out rows",
            "raise --card-tokens (and --heldout-tokens with it), so that the threshold is estimated on more rows, or "
            "--threshold-tolerance",
        )
