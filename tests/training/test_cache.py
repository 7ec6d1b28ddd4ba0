"""The cache shuffles over all rows and forgets what was not noted."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.cache import ActivationCache
from training.harvest.cache_writer import CacheWriter
from training.harvest.manifest import Manifest

POINT = HookPoint(0)


def _numbered(first: int, count: int) -> dict[HookPoint, np.ndarray]:
    return {POINT: np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], 2, axis=1)}


def _filled(folder: Path) -> ActivationCache:
    writer = CacheWriter(folder, Manifest(2, [str(POINT)], "float32", [0, 0, 0, 0], settings={}))
    for first in range(0, 4000, 100):
        writer.append(_numbered(first, 100), np.random.default_rng(first))
    writer.flush()
    return ActivationCache(folder)


def test_rows_are_spread_over_the_shards_and_permuted_within(tmp_path: Path) -> None:
    cache = _filled(tmp_path)
    sizes = cache.manifest.shard_rows
    assert sum(sizes) == 4000
    assert min(sizes) > 800
    numbers = np.concatenate([batch[:, 0] for batch in cache.batches(POINT, 100, seed=0)])
    assert sorted(numbers.tolist()) == list(range(4000))
    # In file order the numbers would rise within a shard; a shuffle leaves no trend in any quarter.
    for quarter in np.split(numbers, 4):
        assert abs(np.corrcoef(np.arange(1000), quarter)[0, 1]) < 0.15
        assert quarter.std() > 1000


def test_epochs_differ(tmp_path: Path) -> None:
    cache = _filled(tmp_path)
    first, second = (np.concatenate(list(cache.batches(POINT, 100, 0, epoch)))[:, 0] for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert (first != second).mean() > 0.9


def test_bytes_beyond_the_manifest_are_cut_off(tmp_path: Path) -> None:
    """What an interrupted run wrote after its last note must not shift the rows that follow."""
    _filled(tmp_path)
    for shard in (tmp_path / str(POINT)).iterdir():
        with shard.open("ab") as file:
            file.write(b"\x01" * 13)
    writer = CacheWriter(tmp_path, Manifest.load(tmp_path))
    writer.append(_numbered(4000, 100), np.random.default_rng(1))
    writer.flush()
    numbers = np.concatenate(list(ActivationCache(tmp_path).batches(POINT, 1, 0)))[:, 0]
    assert sorted(numbers.tolist()) == list(range(4100))


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, hard))
    try:
        manifest = Manifest(2, [str(POINT), "resid_post.1"], "float32", [0] * 100, settings={})
        writer = CacheWriter(tmp_path, manifest)
        for first in (0, 1000):
            rows = _numbered(first, 1000)
            writer.append({**rows, HookPoint(1): -rows[POINT]}, np.random.default_rng(first))
        writer.flush()
        cache = ActivationCache(tmp_path)
        for point, sign in ((POINT, 1), (HookPoint(1), -1)):
            numbers = sign * np.concatenate([batch[:, 0] for batch in cache.batches(point, 100, seed=0)])
            assert sorted(numbers.tolist()) == list(range(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_cut_off_shard_is_told(tmp_path: Path) -> None:
    _filled(tmp_path)
    shard = next((tmp_path / str(POINT)).iterdir())
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(FeaturewatchError, match=r"the manifest counts .*Remove the cache folder and harvest again"):
        CacheWriter(tmp_path, Manifest.load(tmp_path))
