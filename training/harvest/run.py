"""One harvest: documents in, activation cache out."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from monitor.sae import HookPoint
from training.harvest.activations import ActivationModel
from training.harvest.batches import TokenBatch
from training.harvest.cache_writer import CacheWriter
from training.harvest.config import HarvestConfig
from training.harvest.disk import bytes_needed, require_room
from training.harvest.manifest import MANIFEST, Manifest
from training.harvest.open_model import open_model
from training.harvest.outliers import measure_norms, outliers
from training.harvest.prepare import prepare
from training.harvest.source import DocumentBatches
from training.harvest.tokens import Reason
from training.progress import ProgressLine

_MEDIAN_BATCHES = 8
_FLUSH_BATCHES = 32


def harvest(config: HarvestConfig) -> Manifest:
    """Fills `config.cache`, or goes on with it where an interrupted harvest of the same settings stopped.

    The pass ends when `config.tokens` rows are kept or the documents are used up.

    Raises:
        FeaturewatchError: bad data, model or hook point; too little disk; the cache is of other settings.
    """
    prepared = prepare(config)
    manifest = _held_or(prepared.manifest, config)
    if manifest.complete:
        return manifest
    require_room_for_rows(config, manifest)
    with open_model(config, prepared.hook_points, manifest.forward_dtype) as (model, engine):
        manifest.engine = engine
        return _fill(config, manifest, model, prepared.source)


def require_room_for_rows(config: HarvestConfig, manifest: Manifest) -> None:
    """Raises FeaturewatchError when the rows that the manifest does not count yet would not fit the disk."""
    rows = max(0, config.tokens + config.batch_tokens - manifest.rows)
    needed = bytes_needed(rows, map(manifest.width_of, manifest.hook_points), config.store_dtype)
    require_room(config.cache, needed, f"{config.tokens:,} tokens at {len(manifest.hook_points)} hook points")


def _fill(config: HarvestConfig, manifest: Manifest, model: ActivationModel, source: DocumentBatches) -> Manifest:
    """Goes on until the cache is complete."""
    if not manifest.medians:
        measure_norms(model, itertools.islice(source, _MEDIAN_BATCHES), manifest)
    run = _Run(config, model, CacheWriter(config.cache, manifest))
    with ProgressLine("harvest", config.tokens, done=manifest.rows) as progress:
        for index, batch in enumerate(source):
            if index >= manifest.batches_done and manifest.rows >= config.tokens:
                source.finish()
                if not batch.held_out:
                    continue
            if index >= manifest.batches_done:
                run.take(index, batch)
                positions = sum(manifest.counts.values()) - manifest.counts.get("padding", 0)
                progress.update(manifest.rows, excluded_share=1 - manifest.rows / max(positions, 1))
    manifest.sources = source.origins()
    manifest.complete = True
    run.writer.flush()
    return manifest


class _Run:
    """Takes batches through the model into the cache."""

    def __init__(self, config: HarvestConfig, model: ActivationModel, writer: CacheWriter) -> None:
        self.writer = writer
        self._config, self._model = config, model
        self._counts = Counter(writer.manifest.counts)
        self._heldout_counts = Counter(writer.manifest.heldout_counts)
        self._outliers = Counter(writer.manifest.outliers_by_hook_point)
        self._before = writer.manifest.seconds
        self._started = time.monotonic()

    def take(self, index: int, batch: TokenBatch) -> None:
        """Forward, exclude, write; then notes the batch as done."""
        manifest = self.writer.manifest
        residuals = self._model.residuals(batch.token_ids_bt, batch.lengths_b)
        reasons_bt = self._with_outliers(batch.reasons_bt, residuals, count=not batch.held_out)
        counts = self._heldout_counts if batch.held_out else self._counts
        counts.update({Reason(value).name.lower(): int(n) for value, n in _value_counts(reasons_bt)})
        real_bt = reasons_bt != Reason.PADDING
        if batch.held_out:
            rows_of_b = manifest.heldout_sequences + np.arange(len(real_bt), dtype=np.int32)
            manifest.heldout_sequences += len(real_bt)
            sequences_bt = np.broadcast_to(rows_of_b[:, None], real_bt.shape)
            self.writer.append_heldout(
                batch.token_ids_bt[real_bt].astype(np.int32),
                sequences_bt[real_bt],
                reasons_bt[real_bt],
            )
        else:
            kept_bt = reasons_bt == Reason.KEPT
            rows = {point: rows_btd.numpy()[kept_bt] for point, rows_btd in residuals.items()}
            self.writer.append(rows, np.random.default_rng([self._config.seed, index]))
        manifest.counts, manifest.heldout_counts = dict(self._counts), dict(self._heldout_counts)
        manifest.outliers_by_hook_point = dict(self._outliers)
        manifest.seconds = self._before + time.monotonic() - self._started
        manifest.batches_done = index + 1
        # The last batches depend on where the iteration was finished, so they are noted all at once at the end.
        if manifest.batches_done % _FLUSH_BATCHES == 0 and manifest.rows < self._config.tokens:
            self.writer.flush()

    def _with_outliers(
        self, reasons_bt: npt.NDArray[np.uint8], residuals: dict[HookPoint, Tensor], *, count: bool
    ) -> npt.NDArray[np.uint8]:
        """Marks content rows that are outliers at any hook point."""
        manifest = self.writer.manifest
        reasons_bt = reasons_bt.copy()
        content_bt = reasons_bt == Reason.KEPT
        found = outliers(residuals, manifest.medians, self._config.outlier_limit, manifest.store_dtype)
        for point, outlier_bt in found.items():
            reasons_bt[content_bt & outlier_bt] = Reason.OUTLIER
            if count:
                self._outliers[str(point)] += int((content_bt & outlier_bt).sum())
        return reasons_bt


def _value_counts(values_bt: npt.NDArray[np.uint8]) -> Iterable[tuple[int, int]]:
    values, counts = np.unique(values_bt, return_counts=True)
    return zip(values.tolist(), counts.tolist(), strict=True)


def _held_or(new: Manifest, config: HarvestConfig) -> Manifest:
    """The manifest of the cache folder, if it goes with the configuration, or the new one."""
    if (config.cache / MANIFEST).is_file():
        held = Manifest.load(config.cache)
        held.require_same(new, config.cache)
        return held
    config.cache.mkdir(parents=True, exist_ok=True)
    return new
