"""What a harvest and a stream know before the model is loaded: text, hook points, and what rows will be made from."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from monitor.sae import HookPoint
from training.harvest.compute import forward_device, forward_dtype
from training.harvest.config import HarvestConfig
from training.harvest.document_store import DocumentStore
from training.harvest.documents import require_some
from training.harvest.loading import load_tokenizer
from training.harvest.manifest import MANIFEST, Manifest
from training.harvest.model_config import ModelConfig
from training.harvest.open_model import engine_identity
from training.harvest.packing import PackedMaker
from training.harvest.source import DocumentBatches
from training.harvest.split import require_usable
from training.harvest.tokens import SequenceMaker
from training.harvest.wanted import data_sha256, wanted_documents
from training.harvest.widths import site_widths
from training.identity import model_sha256, tokenizer_sha256

_MOST_SHARDS = 1024  # a batch's rows are spread over all of them, a file each
_VERSION = 3  # to be raised when the same input would give other rows than before


_logger = logging.getLogger(__name__)
_KEPT = {
    "keep_bos": "the first position of a sequence is an attention sink in most models, its row many times as long as "
    "others; it is left out as an outlier all the same, unless --keep-outliers is given",
    "keep_special": "special tokens are the same few rows again and again, and latents will be spent on them",
    "keep_template": "the template's tokens are the same in every chat, and latents will be spent on them",
    "keep_outliers": "a handful of very long rows will own the loss; the other rows are reconstructed worse",
}


@dataclass(frozen=True)
class Prepared:
    """Input of the model.

    Attributes:
        hook_points: in ascending order.
        read: the forward batches; the text is read at the first call.
        manifest: of a cache that is still empty; its forward dtype is never `auto`.
    """

    hook_points: tuple[HookPoint, ...]
    read: Callable[[], DocumentBatches]
    manifest: Manifest

    @property
    def source(self) -> DocumentBatches:
        """The forward batches."""
        return self.read()


def prepare(config: HarvestConfig) -> Prepared:
    """Reads and checks the text and hashes what the rows will be made from.

    Where the cache is complete the text waits until somebody asks for it, which a harvest does not.

    Raises:
        FeaturewatchError: bad data, model or hook point.
    """
    for name, effect in _KEPT.items():
        if getattr(config, name):
            _logger.warning("--%s: %s", name.replace("_", "-"), effect)
    hook_points = tuple(sorted({HookPoint.parse(text) for text in config.hook_points}))
    shape = ModelConfig.read(config.model)
    shape.require_hook_points(hook_points)
    shape.require_context(config.context)
    tokenizer = load_tokenizer(config.model)
    maker = (PackedMaker if config.packing else SequenceMaker)(tokenizer, config)
    read = cache(lambda: _source(maker, config))
    if not ((config.cache / MANIFEST).is_file() and Manifest.load(config.cache).complete):
        read()
    dtype = str(forward_dtype(config.dtype, forward_device())).removeprefix("torch.")
    identity = {
        "model": model_sha256(config.model),
        "tokenizer or chat template": tokenizer_sha256(tokenizer),
        "data file": data_sha256(config),
        **engine_identity(config, hook_points, shape),
    }
    manifest = _manifest(config, shape.width, site_widths(shape, hook_points), dtype, identity)
    return Prepared(hook_points, read, manifest)


def _source(maker: SequenceMaker, config: HarvestConfig) -> DocumentBatches:
    documents = DocumentStore(wanted_documents(config), config.heldout_share, config.seed, config.cache)
    require_some(documents, config.data)
    require_usable(documents, maker, config.heldout_share)
    return DocumentBatches(maker, documents, config)


def _manifest(
    config: HarvestConfig, width: int, widths: dict[HookPoint, int], dtype: str, identity: dict[str, str]
) -> Manifest:
    shards = min(max(1, round(config.tokens / config.shard_rows)), _MOST_SHARDS)
    return Manifest(
        width=width,
        hook_points=[str(point) for point in sorted(widths)],
        widths={str(point): other for point, other in sorted(widths.items()) if other != width},
        store_dtype=config.store_dtype,
        shard_rows=[0] * shards,
        settings=_settings(config, dtype),
        identity=identity,
        forward_dtype=dtype,
    )


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
