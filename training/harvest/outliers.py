"""Rows that are left out because of their values: attention sinks, and what the cache's dtype cannot hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.activations import ActivationModel
from training.harvest.batches import TokenBatch
from training.harvest.manifest import NORM_QUANTILES, Manifest
from training.harvest.store import largest
from training.harvest.tokens import Reason

Bools = npt.NDArray[np.bool_]


def measure_norms(model: ActivationModel, batches: Iterable[TokenBatch], manifest: Manifest) -> None:
    """Notes median and quantiles of the norms of content rows per hook point in the manifest.

    Raises:
        FeaturewatchError: there are none, or the store dtype cannot hold half of them: then all would be left out.
    """
    norms: dict[HookPoint, list[npt.NDArray[np.float32]]] = {point: [] for point in model.hook_points}
    fits: dict[HookPoint, list[Bools]] = {point: [] for point in model.hook_points}
    for batch in batches:
        content_bt = batch.reasons_bt == Reason.KEPT
        for point, rows_btd in model.residuals(batch.token_ids_bt, batch.lengths_b).items():
            norms[point].append(rows_btd.norm(dim=-1).numpy()[content_bt])
            fits[point].append(_fits(rows_btd, manifest.store_dtype)[content_bt])
    if not any(len(values) for values in norms[model.hook_points[0]]):
        raise FeaturewatchError("data", "it holds no content tokens", "give longer texts")
    for point, parts in fits.items():
        if (share := float(np.mean(np.concatenate(parts)))) < 0.5:
            raise FeaturewatchError(
                f"store-dtype {manifest.store_dtype} at {point}",
                f"only {share:.0%} of the rows lie within its range",
                "use --store-dtype float32, and --weights-dtype float32 for the SAE",
            )
    for point, values in norms.items():
        norms_n = np.concatenate(values)
        manifest.medians[str(point)] = float(np.median(norms_n))
        manifest.norm_quantiles[str(point)] = {
            str(quantile): float(np.quantile(norms_n, quantile)) for quantile in NORM_QUANTILES
        }


def outliers(
    residuals: Mapping[HookPoint, Tensor], medians: Mapping[str, float], factor: float, store_dtype: str
) -> dict[HookPoint, Bools]:
    """Rows [b, t] per hook point whose norm is above `factor` medians or with a value beyond `store_dtype`.

    NaN and infinity count as outliers. A long row may well have a norm that the dtype could not hold: only its values
    are stored. With an infinite factor only those are outliers that the dtype cannot hold.
    """
    return {
        point: ~(_within(rows_btd, factor, medians[str(point)]) & _fits(rows_btd, store_dtype))
        for point, rows_btd in residuals.items()
    }


def _within(rows_btd: Tensor, factor: float, median: float) -> Bools:
    norms_bt = rows_btd.norm(dim=-1).numpy()
    return np.asarray(norms_bt <= factor * median) if math.isfinite(factor) else np.ones_like(norms_bt, np.bool_)


def _fits(rows_btd: Tensor, store_dtype: str) -> Bools:
    return np.asarray(rows_btd.abs().amax(dim=-1).numpy() <= largest(store_dtype))
