"""Rows as a model gives them, shuffled in a buffer in memory: no cache on disk.

The buffer is filled with consecutive rows of the harvest's order, given out in a random order, and filled again. Where
it began is all that a position needs: an interrupted run computes that one buffer again and goes on inside it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.sae import HookPoint
from training.harvest.activations import ActivationModel
from training.harvest.batches import TokenBatch
from training.harvest.config import HarvestConfig
from training.harvest.manifest import Manifest
from training.harvest.outliers import measure_norms, outliers
from training.harvest.prepare import Prepared
from training.harvest.store import as_floats, stored
from training.harvest.tokens import Reason, TokenSequence
from training.trainer.rows import Batch

_MEDIAN_BATCHES = 8


class StreamRows:
    """Rows of a model at all of its hook points.

    Args:
        prepared: text and settings.
        config: of the harvest; `tokens` rows make an epoch. Text that is used up is taken again.
        model: that computes them.
        batch_rows: of a batch.
        buffer_rows: rounded down to whole batches.

    Raises:
        FeaturewatchError: the text holds no content tokens, or the dtype of storage cannot hold them.
    """

    def __init__(
        self, prepared: Prepared, config: HarvestConfig, model: ActivationModel, batch_rows: int, buffer_rows: int
    ) -> None:
        self.batch_rows, self.rows = batch_rows, config.tokens
        self.manifest: Manifest = prepared.manifest
        self._prepared, self._config, self._model = prepared, config, model
        self._batches_of_buffer = max(1, buffer_rows // batch_rows)
        measure_norms(model, itertools.islice(prepared.source, _MEDIAN_BATCHES), self.manifest)
        self._walk = _Walk(prepared, 0, 0)
        self._start = self._walk.place
        self._buffer: dict[HookPoint, npt.NDArray[Any]] = {}
        self._order_n = np.empty(0, np.int64)
        self._number, self._given = 0, 0
        self._seen: dict[str, dict[str, int]] = {"counts": {}, "outliers": {}}
        self._seen_before = self._noted()

    def width_of(self, hook_point: HookPoint) -> int:
        return self._model.width_of(hook_point)

    def peek(self, batches: int) -> Batch:
        """At most what the buffer holds."""
        self._fill_if_used_up()
        chosen_n = self._order_n[self._given * self.batch_rows :][: batches * self.batch_rows]
        return self._rows(chosen_n)

    def take(self) -> Batch:
        self._fill_if_used_up()
        begin = self._given * self.batch_rows
        self._given += 1
        return self._rows(self._order_n[begin : begin + self.batch_rows])

    def position(self) -> dict[str, Any]:
        return {
            "start": list(self._start),
            "buffer": self._number,
            "given": self._given,
            "seen": self._seen_before,
            "seen_all": self._noted(),
        }

    def restore(self, position: Mapping[str, Any]) -> None:
        round_, batch, row = position["start"]
        self._walk = _Walk(self._prepared, round_, batch, row)
        self._number, self._given = int(position["buffer"]), int(position["given"])
        self._order_n = np.empty(0, np.int64)
        self._seen = position["seen_all"]
        self._describe()
        self._seen = position["seen"]

    def heldout(self) -> list[TokenSequence]:
        """Held-out sequences, outliers marked, up to the number of tokens that the settings allow."""
        found: list[TokenSequence] = []
        for batch in self._prepared.source:
            if (
                sum(len(sequence.token_ids_n) for sequence in found)
                > self._config.heldout_tokens - self._config.context
            ):
                break
            if batch.held_out:
                reasons_bt = self._reasons(batch, self._model.residuals(batch.token_ids_bt, batch.lengths_b))
                for row, length in enumerate(batch.lengths_b):
                    ids_n = batch.token_ids_bt[row, :length].astype(np.int32)
                    found.append(TokenSequence(ids_n, reasons_bt[row, :length], True))
        return found

    def _rows(self, chosen_n: npt.NDArray[np.int64]) -> Batch:
        return {
            point: as_floats(rows_nd[chosen_n], self._config.store_dtype) for point, rows_nd in self._buffer.items()
        }

    def _fill_if_used_up(self) -> None:
        if not len(self._order_n):
            self._fill()
        if self._given == self._batches_of_buffer:
            self._number, self._given = self._number + 1, 0
            self._fill()

    def _fill(self) -> None:
        """Takes exactly as many rows as the buffer has; the rest of the last forward batch begins the next one."""
        started = time.monotonic()
        self._start, self._seen_before = self._walk.place, self._noted()
        wanted = self._batches_of_buffer * self.batch_rows
        dtype = self._config.store_dtype
        parts: dict[HookPoint, list[npt.NDArray[Any]]] = {point: [] for point in self._model.hook_points}
        held = 0
        while held < wanted:
            batch, skipped = self._walk.batch()
            residuals = self._model.residuals(batch.token_ids_bt, batch.lengths_b)
            reasons_bt = self._reasons(batch, residuals)
            kept_bt = reasons_bt == Reason.KEPT
            if self._walk.place[0] == 0 and not skipped:
                self._note(batch, reasons_bt, residuals)
            count = int(kept_bt.sum()) - skipped
            taken = min(count, wanted - held)
            for point, rows_btd in residuals.items():
                rows_nd = rows_btd.numpy()[kept_bt][skipped : skipped + taken]
                parts[point].append(stored(rows_nd, dtype))
            held += taken
            self._walk.moved(taken, whole=taken == count)
        self._buffer = {point: np.concatenate(rows) for point, rows in parts.items()}
        self._order_n = np.random.default_rng([self._config.seed, self._number]).permutation(wanted)
        self.manifest.seconds += time.monotonic() - started
        self._describe()

    def _note(self, batch: TokenBatch, reasons_bt: npt.NDArray[np.uint8], residuals: Mapping[HookPoint, Any]) -> None:
        """Counts the positions of a batch of the first round."""
        counts, by_point = self._seen["counts"], self._seen["outliers"]
        for value, number in zip(*np.unique(reasons_bt, return_counts=True), strict=True):
            name = Reason(value).name.lower()
            counts[name] = counts.get(name, 0) + int(number)
        content_bt = batch.reasons_bt == Reason.KEPT
        for point, outlier_bt in self._outliers(residuals).items():
            by_point[str(point)] = by_point.get(str(point), 0) + int((content_bt & outlier_bt).sum())

    def _noted(self) -> dict[str, dict[str, int]]:
        return {name: dict(counts) for name, counts in self._seen.items()}

    def _describe(self) -> None:
        """Brings the manifest up to date."""
        seen = self._noted()
        self.manifest.counts, self.manifest.outliers_by_hook_point = seen["counts"], seen["outliers"]
        self.manifest.shard_rows = [seen["counts"].get(Reason.KEPT.name.lower(), 0)]
        self.manifest.sources = self._prepared.source.origins()

    def _reasons(self, batch: TokenBatch, residuals: Mapping[HookPoint, Any]) -> npt.NDArray[np.uint8]:
        reasons_bt = batch.reasons_bt.copy()
        content_bt = reasons_bt == Reason.KEPT
        for outlier_bt in self._outliers(residuals).values():
            reasons_bt[content_bt & outlier_bt] = Reason.OUTLIER
        return reasons_bt

    def _outliers(self, residuals: Mapping[HookPoint, Any]) -> dict[HookPoint, npt.NDArray[np.bool_]]:
        return outliers(residuals, self.manifest.medians, self._config.outlier_limit, self._config.store_dtype)


class _Walk:
    """A place in the forward batches that are trained on: round, batch in the round, rows of it that are used."""

    def __init__(self, prepared: Prepared, round_: int, batch: int, row: int = 0) -> None:
        self._prepared = prepared
        self.place = (round_, batch, row)
        self._ahead: Iterator[TokenBatch] = itertools.islice(self._trained_on(), batch, None)
        self._current: TokenBatch | None = None

    def batch(self) -> tuple[TokenBatch, int]:
        """The batch at the place, and how many of its rows are used already."""
        if self._current is None:
            self._current = next(self._ahead, None)
        if self._current is None:
            self.place = (self.place[0] + 1, 0, 0)
            self._ahead = self._trained_on()
            return self.batch()
        return self._current, self.place[2]

    def moved(self, rows: int, *, whole: bool) -> None:
        """Notes rows as used; `whole` when none is left in the batch."""
        round_, batch, row = self.place
        if whole:
            self.place, self._current = (round_, batch + 1, 0), None
        else:
            self.place = (round_, batch, row + rows)

    def _trained_on(self) -> Iterator[TokenBatch]:
        return (batch for batch in self._prepared.source if not batch.held_out)
