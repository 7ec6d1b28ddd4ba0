"""One harvest: documents in, activation cache out."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.batches import TokenBatch, make_batches
from training.harvest.cache import MANIFEST, CacheWriter, Manifest, bytes_needed
from training.harvest.config import HarvestConfig
from training.harvest.documents import Document, read_documents, require_some, shuffled
from training.harvest.loading import load_tokenizer
from training.harvest.residuals import ResidualModel
from training.harvest.tokens import Reason, SequenceMaker, TokenSequence
from training.progress import ProgressLine

Floats = npt.NDArray[np.float32]
_MEDIAN_BATCHES = 8
_FLUSH_BATCHES = 32
_MOST_SHARDS = 128  # all are open at once, times the hook points


def harvest(config: HarvestConfig) -> Manifest:
    """Fills `config.cache`, or goes on with it where an interrupted harvest of the same settings stopped.

    The pass ends when `config.tokens` rows are kept or the documents are used up.

    Raises:
        FeaturewatchError: bad data, model or hook point; too little disk; the cache is of other settings.
    """
    hook_points = [HookPoint.parse(text) for text in config.hook_points]
    documents = list(read_documents(config.data, config.text_field))
    require_some(documents, config.data)
    tokenizer = load_tokenizer(config.model)
    model = ResidualModel(config.model, hook_points, config.dtype)
    manifest = _manifest(config, model)
    if manifest.complete:
        return manifest
    _require_disk(config, model, manifest)
    source = _Batches(SequenceMaker(tokenizer, config), shuffled(documents, config.seed), config)
    if not manifest.medians:
        manifest.medians = _median_norms(model, source)
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
    run.writer.close()
    return manifest


class _Batches:
    """The forward batches of all documents; iterating again gives the same ones."""

    def __init__(self, maker: SequenceMaker, documents: Sequence[Document], config: HarvestConfig) -> None:
        self._maker, self._documents, self._config = maker, documents, config
        self._used, self._finishing = 0, False

    def __iter__(self) -> Iterator[TokenBatch]:
        self._finishing = False
        return make_batches(self._sequences(), self._config.batch_tokens)

    def finish(self) -> None:
        """No further documents: the iteration ends with the sequences that are waiting for a full batch."""
        self._finishing = True

    def _sequences(self) -> Iterator[TokenSequence]:
        heldout = 0
        for used, document in enumerate(self._documents, 1):
            if self._finishing:
                return
            self._used = used
            for sequence in self._maker.sequences(document):
                if sequence.held_out:
                    heldout += len(sequence.token_ids_n)
                    if heldout > self._config.heldout_tokens:
                        continue
                yield sequence

    def origins(self) -> dict[str, dict[str, Any]]:
        """Documents and licences per category of what was read, no text."""
        found: dict[str, dict[str, Any]] = {}
        for document in self._documents[: self._used]:
            entry = found.setdefault(document.category or "unnamed", {"documents": 0, "licences": {}})
            entry["documents"] += 1
            licence = document.licence or "unknown"
            entry["licences"][licence] = entry["licences"].get(licence, 0) + 1
        return dict(sorted(found.items()))


class _Run:
    """Takes batches through the model into the cache."""

    def __init__(self, config: HarvestConfig, model: ResidualModel, writer: CacheWriter) -> None:
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
        residuals = self._model.residuals(batch.token_ids_bt)
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
        self, reasons_bt: npt.NDArray[np.uint8], residuals: dict[HookPoint, Any], *, count: bool
    ) -> npt.NDArray[np.uint8]:
        """Marks rows whose norm at any hook point is far above the median or does not fit the cache's dtype."""
        reasons_bt = reasons_bt.copy()
        content_bt = reasons_bt == Reason.KEPT
        limit = float(np.finfo(self.writer.manifest.store_dtype).max)
        for point, rows_btd in residuals.items():
            median = self.writer.manifest.medians[str(point)]
            norms_bt = rows_btd.norm(dim=-1).numpy()
            outlier_bt = ~(norms_bt <= min(self._config.outlier_factor * median, limit))  # true for NaN as well
            reasons_bt[content_bt & outlier_bt] = Reason.OUTLIER
            if count:
                self._outliers[str(point)] += int((content_bt & outlier_bt).sum())
        return reasons_bt


def _value_counts(values_bt: npt.NDArray[np.uint8]) -> Iterable[tuple[int, int]]:
    values, counts = np.unique(values_bt, return_counts=True)
    return zip(values.tolist(), counts.tolist(), strict=True)


def _median_norms(model: ResidualModel, source: Iterable[TokenBatch]) -> dict[str, float]:
    """Median norm of content rows per hook point, from the first batches."""
    norms: dict[HookPoint, list[Floats]] = {point: [] for point in model.hook_points}
    for batch in itertools.islice(source, _MEDIAN_BATCHES):
        content_bt = batch.reasons_bt == Reason.KEPT
        for point, rows_btd in model.residuals(batch.token_ids_bt).items():
            norms[point].append(rows_btd.norm(dim=-1).numpy()[content_bt])
    if not any(len(values) for values in norms[model.hook_points[0]]):
        raise FeaturewatchError("data", "it holds no content tokens", "give longer texts")
    return {str(point): float(np.median(np.concatenate(values))) for point, values in norms.items()}


def _settings(config: HarvestConfig) -> dict[str, Any]:
    """The settings in JSON form, without the cache's own place."""
    settings = asdict(config)
    settings["data"] = [path.name for path in config.data]
    settings["hook_points"] = sorted(config.hook_points)
    settings["model"] = Path(config.model).name
    del settings["cache"]
    return dict(json.loads(json.dumps(settings)))


def _manifest(config: HarvestConfig, model: ResidualModel) -> Manifest:
    settings = _settings(config)
    if (config.cache / MANIFEST).is_file():
        manifest = Manifest.load(config.cache)
        changed = [key for key, value in settings.items() if manifest.settings.get(key) != value]
        if changed:
            raise FeaturewatchError(
                f"activation cache {config.cache}",
                f"it was harvested with other settings ({', '.join(changed)})",
                "give another --cache folder or remove this one",
            )
        return manifest
    config.cache.mkdir(parents=True, exist_ok=True)
    shards = min(max(1, round(config.tokens / config.shard_rows)), _MOST_SHARDS)
    return Manifest(
        width=model.width,
        hook_points=[str(point) for point in model.hook_points],
        store_dtype=config.store_dtype,
        shard_rows=[0] * shards,
        settings=settings,
        forward_dtype=str(model.dtype).removeprefix("torch."),
    )


def _require_disk(config: HarvestConfig, model: ResidualModel, manifest: Manifest) -> None:
    rows = max(0, config.tokens + config.batch_tokens - manifest.rows)
    needed = bytes_needed(rows, model.width, model.hook_points, config.store_dtype)
    free = shutil.disk_usage(config.cache).free
    if needed > free:
        raise FeaturewatchError(
            f"activation cache {config.cache} with {free / 1e9:.1f} GB free",
            f"{config.tokens:,} tokens at {len(model.hook_points)} hook points need {needed / 1e9:.1f} GB",
            "harvest fewer --tokens, use --store-dtype float16 or another --cache disk",
        )
