"""What differs at one hook point."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary
from training.comparison.latents import LatentDifference, LatentFigures
from training.comparison.rows import RowDifference, RowFigures
from training.harvest.batches import TokenBatch
from training.harvest.config import HarvestConfig
from training.harvest.tokens import Reason
from training.options import default_of

Floats = npt.NDArray[np.float32]
_OUTLIER_FACTOR: Final = float(default_of(HarvestConfig, "outlier_factor"))


@dataclass(frozen=True)
class FarPosition:
    """One of the positions that differ most.

    Attributes:
        error: relative error of its row.
        sequence: number of its sequence in this comparison.
        position: in the sequence, from 0.
        token: its text.
        kind: content, outlier, bos, special or template.
        norm: of the reference's row.
    """

    error: float
    sequence: int
    position: int
    token: str
    kind: str
    norm: float


@dataclass(frozen=True)
class PointDifference:
    """Figures of one hook point.

    Attributes:
        content: rows that a training keeps: no BOS, special or template tokens, no outliers.
        everything: all rows.
        saes: by SAE folder, on content rows.
        far: positions that differ most, of all kinds.
    """

    content: RowFigures
    everything: RowFigures
    saes: dict[str, LatentFigures]
    far: list[FarPosition]


class MeasuredPoint:
    """Collects what differs at one hook point."""

    def __init__(self, width: int, dictionaries: Mapping[str, Dictionary], tokenizer: Any, worst: int) -> None:
        self._content, self._everything = RowDifference(width), RowDifference(width)
        self._latents = {name: LatentDifference(dictionary) for name, dictionary in dictionaries.items()}
        self._tokenizer, self._worst = tokenizer, worst
        # The least one first; the number decides between equal errors.
        self._far: list[tuple[float, int, FarPosition]] = []
        self._met = 0
        self._limit: float | None = None

    def add(self, batch: TokenBatch, first: int, reference_btd: Floats, engine_btd: Floats) -> None:
        real_bt = batch.reasons_bt != Reason.PADDING
        reference_nd, engine_nd = reference_btd[real_bt], engine_btd[real_bt]
        reasons_n = self._with_outliers(batch.reasons_bt[real_bt], np.linalg.norm(reference_nd, axis=1))
        error_n = self._everything.add(reference_nd, engine_nd)
        content_n = reasons_n == Reason.KEPT
        self._content.add(reference_nd[content_n], engine_nd[content_n])
        for latents in self._latents.values():
            latents.add(reference_nd[content_n], engine_nd[content_n])
        token_ids_n = batch.token_ids_bt[real_bt]
        rows_n, positions_n = np.nonzero(real_bt)
        for index in np.argsort(-error_n)[: self._worst].tolist():
            far = FarPosition(
                error=float(error_n[index]),
                sequence=first + int(rows_n[index]),
                position=int(positions_n[index]),
                token=self._tokenizer.decode([int(token_ids_n[index])]),
                kind="content" if content_n[index] else Reason(reasons_n[index]).name.lower(),
                norm=float(np.linalg.norm(reference_nd[index])),
            )
            self._met += 1
            heapq.heappush(self._far, (far.error, self._met, far))
            if len(self._far) > self._worst:
                heapq.heappop(self._far)

    def _with_outliers(self, reasons_n: npt.NDArray[np.uint8], norms_n: Floats) -> npt.NDArray[np.uint8]:
        """Marks rows that a training leaves out because of their norm; the first batch with content sets the limit."""
        content_n = reasons_n == Reason.KEPT
        if self._limit is None and content_n.any():
            self._limit = float(_OUTLIER_FACTOR * np.median(norms_n[content_n]))
        if self._limit is not None:
            reasons_n[content_n & (norms_n > self._limit)] = Reason.OUTLIER
        return reasons_n

    def result(self) -> PointDifference:
        content, everything = self._content.figures(), self._everything.figures()
        saes = {name: latents.figures() for name, latents in self._latents.items()}
        if content is None or everything is None:
            raise FeaturewatchError("data", "it holds no content tokens", "give longer texts")
        return PointDifference(
            content,
            everything,
            {name: figures for name, figures in saes.items() if figures is not None},
            [far for _, _, far in sorted(self._far, key=lambda entry: -entry[0])],
        )
