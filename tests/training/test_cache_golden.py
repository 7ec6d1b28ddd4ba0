"""Rows and order of a harvest stay what they were: existing caches are gone on with, and cards repeat their runs.

The digests were computed with the harvest that filled the caches of version 3. A model that computes whole numbers
makes them the same on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from monitor.sae import HookPoint
from training.harvest import open_model
from training.harvest.cache import ActivationCache
from training.harvest.config import HarvestConfig
from training.harvest.manifest import Manifest
from training.harvest.run import harvest

POINTS = (HookPoint(1), HookPoint(2))
WIDTH = 32  # that of the model whose tokenizer and configuration are used


class CountingModel:
    """Rows that tell token, position and batch row; each seventh position of a batch row is an outlier at layer 2."""

    def __init__(self, model: str, hook_points: Sequence[HookPoint], dtype: str = "auto") -> None:
        del model, dtype
        self.hook_points = tuple(sorted(hook_points))

    def width_of(self, point: HookPoint) -> int:
        del point
        return WIDTH

    def residuals(
        self, token_ids_bt: npt.NDArray[np.int64], lengths_b: npt.NDArray[np.int64]
    ) -> dict[HookPoint, Tensor]:
        assert lengths_b.shape == token_ids_bt.shape[:1]
        b, t = token_ids_bt.shape
        rows_btd = np.zeros((b, t, WIDTH), np.float32)
        rows_btd[..., 0] = token_ids_bt
        rows_btd[..., 1] = np.arange(t)
        rows_btd[..., 2] = np.arange(b)[:, None]
        rows_btd[..., 3] = 300.0
        rows_btd[..., 4] = 1 / 3  # no store dtype holds it
        found = {}
        for point in self.hook_points:
            found[point] = torch.from_numpy(rows_btd * point.layer)
            if point.layer == 2:
                found[point][:, 6::7] *= 90
        return found


def _digest(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _harvested(tiny_model: Path, corpus: Path, cache: Path, store_dtype: str) -> Manifest:
    return harvest(
        HarvestConfig(
            model=str(tiny_model),
            data=(corpus,),
            hook_points=tuple(map(str, POINTS)),
            cache=cache,
            tokens=2500,
            context=64,
            batch_tokens=256,
            heldout_share=0.2,
            heldout_tokens=900,
            prompt_tokens=20,
            windows_per_document=3,
            dtype="float32",
            store_dtype=store_dtype,
            shard_rows=400,
        )
    )


@pytest.mark.parametrize(
    "known",
    [("float16", "f832b13f69440cbd", "f7906ad4685e69c3"), ("float32", "db64e229ba10e81d", "3b57fd64a926a9cf")],
    ids=lambda known: known[0],
)
def test_the_cache_of_a_harvest_is_the_one_it_was(
    tiny_model: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: tuple[str, str, str],
) -> None:
    """Digests of the files and of the batches of two epochs, per store dtype."""
    store_dtype, files_then, batches_then = known
    monkeypatch.setattr(open_model, "ResidualModel", CountingModel)
    manifest = _harvested(tiny_model, corpus, tmp_path / "cache", store_dtype)
    files = [tmp_path / "cache" / str(point) / f"shard-{index:04d}.bin" for point in POINTS for index in range(6)]
    files += [tmp_path / "cache" / "heldout" / f"{name}.bin" for name in ("tokens", "sequences", "reasons")]
    facts = [manifest.shard_rows, manifest.counts, manifest.heldout_counts, manifest.batches_done, manifest.sources]
    held = _digest([*(path.read_bytes() for path in files), json.dumps(facts).encode()])
    cache = ActivationCache(tmp_path / "cache")
    batches = [rows.tobytes() for epoch in (0, 1) for rows in cache.batches(POINTS[1], 96, seed=3, epoch=epoch)]
    assert (held, _digest(batches)) == (files_then, batches_then)
