"""Rows that are left out because of their values: attention sinks, and what the cache's dtype cannot hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.activations import ActivationModel
from training.harvest.batches import TokenBatch
from training.harvest.store import largest
from training.harvest.tokens import Reason

Bools = npt.NDArray[np.bool_]


def median_norms(model: ActivationModel, batches: Iterable[TokenBatch], store_dtype: str) -> dict[str, float]:
    """Median norm of content rows per hook point.

    Raises:
        FeaturewatchError: there are none, or `store_dtype` cannot hold half of them: then all would be left out.
    """
    norms: dict[HookPoint, list[npt.NDArray[np.float32]]] = {point: [] for point in model.hook_points}
    fits: dict[HookPoint, list[Bools]] = {point: [] for point in model.hook_points}
    for batch in batches:
        content_bt = batch.reasons_bt == Reason.KEPT
        for point, rows_btd in model.residuals(batch.token_ids_bt, batch.lengths_b).items():
            norms[point].append(rows_btd.norm(dim=-1).numpy()[content_bt])
            fits[point].append(_fits(rows_btd, store_dtype)[content_bt])
    if not any(len(values) for values in norms[model.hook_points[0]]):
        raise FeaturewatchError("data", "it holds no content tokens", "give longer texts")
    for point, parts in fits.items():
        if (share := float(np.mean(np.concatenate(parts)))) < 0.5:
            raise FeaturewatchError(
                f"store-dtype {store_dtype} at {point}",
                f"only {share:.0%} of the rows lie within its range",
                "use --store-dtype float32, and --weights-dtype float32 for the SAE",
            )
    return {str(point): float(np.median(np.concatenate(values))) for point, values in norms.items()}


def outliers(
    residuals: Mapping[HookPoint, Tensor], medians: Mapping[str, float], factor: float, store_dtype: str
) -> dict[HookPoint, Bools]:
    """Rows [b, t] per hook point whose norm is above `factor` medians or with a value beyond `store_dtype`.

    NaN and infinity count as outliers. A long row may well have a norm that the dtype could not hold: only its values
    are stored.
    """
    return {
        point: ~((rows_btd.norm(dim=-1).numpy() <= factor * medians[str(point)]) & _fits(rows_btd, store_dtype))
        for point, rows_btd in residuals.items()
    }


def _fits(rows_btd: Tensor, store_dtype: str) -> Bools:
    return np.asarray(rows_btd.abs().amax(dim=-1).numpy() <= largest(store_dtype))
