"""One pass of the model from which every dictionary gets its figures on rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint
from training.evaluation.measure import Measurement
from training.harvest.activations import ActivationModel
from training.harvest.batches import TokenBatch, make_batches
from training.harvest.tokens import Reason, TokenSequence
from training.progress import ProgressLine

Key = TypeVar("Key")
_Batch = tuple[TokenBatch, dict[HookPoint, Tensor]]
_MEDIAN_BATCHES = 2  # they are kept in memory until the median is known


@dataclass(frozen=True)
class RowPass(Generic[Key]):
    """What the pass gave.

    Attributes:
        measurements: per dictionary.
        sequences: those that were run, outliers marked in their reasons.
        medians: median norm of content rows per hook point.
    """

    measurements: dict[Key, Measurement]
    sequences: list[TokenSequence]
    medians: dict[HookPoint, float]


def measure_pass(
    model: ActivationModel,
    dictionaries: Mapping[Key, Dictionary],
    sequences: Sequence[TokenSequence],
    batch_tokens: int,
    outlier_factor: float | None,
) -> RowPass[Key]:
    """Figures of all dictionaries from one pass over the sequences.

    Args:
        model: opened at all of the dictionaries' hook points.
        dictionaries: by any name.
        sequences: with at least one content row.
        batch_tokens: per forward pass.
        outlier_factor: content rows of a norm above so many medians, at any of the hook points, are outliers; None
            where the sequences' reasons already tell them.

    Raises:
        FeaturewatchError: a dictionary is of another width than its hook point.
    """
    for dictionary in dictionaries.values():
        require_width(dictionary, model)
    passes = _passes(model, make_batches(sequences, batch_tokens))
    first = list(itertools.islice(passes, _MEDIAN_BATCHES))
    medians = _medians(first, model.hook_points)
    found = {key: Measurement(item, medians[item.hook_point]) for key, item in dictionaries.items()}
    total = sum(len(sequence.token_ids_n) for sequence in sequences)
    marked: list[TokenSequence] = []
    with ProgressLine("measure", total) as progress:
        for batch, rows in itertools.chain(first, passes):
            reasons_bt = batch.reasons_bt
            if outlier_factor is not None:
                reasons_bt = _with_outliers(reasons_bt, rows, medians, outlier_factor)
            real_bt = reasons_bt != Reason.PADDING
            sequences_bt = np.broadcast_to(len(marked) + np.arange(len(real_bt))[:, None], real_bt.shape)
            for measurement in found.values():
                rows_btd = rows[measurement.dictionary.hook_point].numpy()
                measurement.add(rows_btd[real_bt], reasons_bt[real_bt], sequences_bt[real_bt])
            marked += [
                TokenSequence(batch.token_ids_bt[row, real_t].astype(np.int32), reasons_bt[row, real_t], batch.held_out)
                for row, real_t in enumerate(real_bt)
            ]
            progress.update(sum(len(sequence.token_ids_n) for sequence in marked))
    return RowPass(found, marked, medians)


def require_width(dictionary: Dictionary, model: ActivationModel) -> None:
    """Raises FeaturewatchError unless the dictionary fits the rows at its hook point."""
    width = model.width_of(dictionary.hook_point)
    if dictionary.width != width:
        raise FeaturewatchError(
            f"SAE at {dictionary.hook_point} of width {dictionary.width}",
            f"the rows there have width {width}",
            "give the --model that the SAE was trained on",
        )


def _passes(model: ActivationModel, batches: Iterable[TokenBatch]) -> Iterator[_Batch]:
    for batch in batches:
        yield batch, model.residuals(batch.token_ids_bt)


def _medians(batches: Sequence[_Batch], points: Sequence[HookPoint]) -> dict[HookPoint, float]:
    """Median norm of the content rows of the first batches."""
    medians = {}
    for point in points:
        norms = [rows[point].norm(dim=-1).numpy()[batch.reasons_bt == Reason.KEPT] for batch, rows in batches]
        norms_n = np.concatenate(norms)
        medians[point] = float(np.median(norms_n)) if len(norms_n) else float("inf")
    return medians


def _with_outliers(
    reasons_bt: npt.NDArray[np.uint8],
    rows: Mapping[HookPoint, Tensor],
    medians: Mapping[HookPoint, float],
    factor: float,
) -> npt.NDArray[np.uint8]:
    reasons_bt = reasons_bt.copy()
    content_bt = reasons_bt == Reason.KEPT
    for point, rows_btd in rows.items():
        # Written so that a norm that is not a number is one too.
        reasons_bt[content_bt & ~(rows_btd.norm(dim=-1).numpy() <= factor * medians[point])] = Reason.OUTLIER
    return reasons_bt
