"""One harvest: documents in, activation cache out."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from monitor.sae import HookPoint
from training.harvest.activations import ActivationModel
from training.harvest.batches import TokenBatch
from training.harvest.cache_writer import CacheWriter
from training.harvest.compute import forward_device, forward_dtype
from training.harvest.config import HarvestConfig
from training.harvest.disk import bytes_needed, require_room
from training.harvest.documents import read_documents, require_some, shuffled
from training.harvest.loading import load_tokenizer
from training.harvest.manifest import MANIFEST, Manifest
from training.harvest.model_config import ModelConfig
from training.harvest.open_model import engine_identity, open_model
from training.harvest.outliers import median_norms, outliers
from training.harvest.source import DocumentBatches
from training.harvest.split import require_usable, without_shared_texts
from training.harvest.tokens import Reason, SequenceMaker
from training.harvest.widths import site_widths
from training.identity import files_sha256, model_sha256, tokenizer_sha256
from training.progress import ProgressLine

_MEDIAN_BATCHES = 8
_FLUSH_BATCHES = 32
_MOST_SHARDS = 1024  # a batch's rows are spread over all of them, a file each
_VERSION = 3  # to be raised when the same input would give other rows than before


def harvest(config: HarvestConfig) -> Manifest:
    """Fills `config.cache`, or goes on with it where an interrupted harvest of the same settings stopped.

    The pass ends when `config.tokens` rows are kept or the documents are used up.

    Raises:
        FeaturewatchError: bad data, model or hook point; too little disk; the cache is of other settings.
    """
    hook_points = [HookPoint.parse(text) for text in config.hook_points]
    documents = list(read_documents(config.data, config.text_field, config.document_field))
    require_some(documents, config.data)
    shape = ModelConfig.read(config.model)
    shape.require_hook_points(hook_points)
    shape.require_context(config.context)
    tokenizer = load_tokenizer(config.model)
    maker = SequenceMaker(tokenizer, config)
    documents = shuffled(without_shared_texts(documents, config.heldout_share), config.seed)
    require_usable(documents, maker, config.heldout_share)
    dtype = str(forward_dtype(config.dtype, forward_device())).removeprefix("torch.")
    identity = {
        "model": model_sha256(config.model),
        "tokenizer or chat template": tokenizer_sha256(tokenizer),
        "data file": files_sha256(config.data),
        **engine_identity(config, hook_points, shape),
    }
    manifest = _manifest(config, shape.width, site_widths(shape, hook_points), dtype, identity)
    if manifest.complete:
        return manifest
    rows = max(0, config.tokens + config.batch_tokens - manifest.rows)
    needed = bytes_needed(rows, map(manifest.width_of, manifest.hook_points), config.store_dtype)
    require_room(config.cache, needed, f"{config.tokens:,} tokens at {len(hook_points)} hook points")
    source = DocumentBatches(maker, documents, config)
    with open_model(config, hook_points, dtype) as (model, engine):
        manifest.engine = engine
        return _fill(config, manifest, model, source)


def _fill(config: HarvestConfig, manifest: Manifest, model: ActivationModel, source: DocumentBatches) -> Manifest:
    """Goes on until the cache is complete."""
    if not manifest.medians:
        manifest.medians = median_norms(model, itertools.islice(source, _MEDIAN_BATCHES), config.store_dtype)
    run = _Run(config, model, CacheWriter(config.cache, manifest))
    with ProgressLine("harvest", config.tokens) as progress:
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
        found = outliers(residuals, manifest.medians, self._config.outlier_factor, manifest.store_dtype)
        for point, outlier_bt in found.items():
            reasons_bt[content_bt & outlier_bt] = Reason.OUTLIER
            if count:
                self._outliers[str(point)] += int((content_bt & outlier_bt).sum())
        return reasons_bt


def _value_counts(values_bt: npt.NDArray[np.uint8]) -> Iterable[tuple[int, int]]:
    values, counts = np.unique(values_bt, return_counts=True)
    return zip(values.tolist(), counts.tolist(), strict=True)


def _settings(config: HarvestConfig, dtype: str) -> dict[str, Any]:
    """The settings in JSON form, without the cache's own place."""
    settings = asdict(config)
    settings["data"] = [path.name for path in config.data]
    settings["hook_points"] = sorted(config.hook_points)
    settings["model"] = Path(config.model).name
    settings["dtype"] = dtype
    settings["harvest_version"] = _VERSION
    del settings["cache"]
    return dict(json.loads(json.dumps(settings)))


def _manifest(
    config: HarvestConfig, width: int, widths: dict[HookPoint, int], dtype: str, identity: dict[str, str]
) -> Manifest:
    """That of the cache folder, if it goes with the configuration, or a new one."""
    shards = min(max(1, round(config.tokens / config.shard_rows)), _MOST_SHARDS)
    new = Manifest(
        width=width,
        hook_points=[str(point) for point in sorted(widths)],
        widths={str(point): other for point, other in sorted(widths.items()) if other != width},
        store_dtype=config.store_dtype,
        shard_rows=[0] * shards,
        settings=_settings(config, dtype),
        identity=identity,
        forward_dtype=dtype,
    )
    if (config.cache / MANIFEST).is_file():
        held = Manifest.load(config.cache)
        held.require_same(new, config.cache)
        return held
    config.cache.mkdir(parents=True, exist_ok=True)
    return new
