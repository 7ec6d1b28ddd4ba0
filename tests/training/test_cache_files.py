"""Store dtypes, positions in the shuffle, checksums and full disks."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest import shard as shard_module
from training.harvest.cache import ActivationCache
from training.harvest.cache_writer import CacheWriter
from training.harvest.disk import bytes_needed
from training.harvest.manifest import Manifest
from training.harvest.shuffle import turns
from training.harvest.store import STORE_DTYPES, as_floats, largest, stored

NARROW, WIDE = HookPoint(0), HookPoint(0, "attn_z")


def _fill(folder: Path, store_dtype: str = "float32", rows: int = 500, shards: int = 4) -> ActivationCache:
    """Two hook points of widths 3 and 5; row i holds i."""
    manifest = Manifest(3, [str(WIDE), str(NARROW)], store_dtype, [0] * shards, {}, widths={str(WIDE): 5})
    writer = CacheWriter(folder, manifest)
    for first in range(0, rows, 50):
        numbers_n = np.arange(first, first + 50, dtype=np.float32)[:, None]
        writer.append({NARROW: np.repeat(numbers_n, 3, 1), WIDE: np.repeat(numbers_n, 5, 1)}, _rng(first))
    writer.append_heldout(np.arange(7, dtype=np.int32), np.zeros(7, np.int32), np.zeros(7, np.uint8))
    writer.flush()
    return ActivationCache(folder)


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_bfloat16_rounds_as_torch_does() -> None:
    """Every pattern of the upper half, with lower halves around the ties."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    bits = np.concatenate([upper | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    values = bits.view(np.float32)
    values = values[np.isfinite(values)][:, None]
    expected = torch.from_numpy(values).to(torch.bfloat16)
    held = stored(values, "bfloat16")
    assert held.dtype == np.uint16
    np.testing.assert_array_equal(held.view(np.int16), expected.view(torch.int16).numpy())
    np.testing.assert_array_equal(as_floats(held, "bfloat16"), expected.float().numpy())
    fits = np.abs(values) <= largest("bfloat16")
    assert np.isfinite(as_floats(held, "bfloat16")[fits]).all()
    assert largest("bfloat16") == torch.finfo(torch.bfloat16).max


@pytest.mark.parametrize("store_dtype", STORE_DTYPES)
def test_rows_come_back_as_they_were_rounded(tmp_path: Path, store_dtype: str) -> None:
    rows = _rng(0).standard_normal((60, 3)).astype(np.float32) * 100
    writer = CacheWriter(tmp_path, Manifest(3, [str(NARROW)], store_dtype, [0, 0], {}))
    writer.append({NARROW: rows}, _rng(0))
    writer.flush()
    found = np.concatenate(list(ActivationCache(tmp_path).batches(NARROW, 1, 0)))
    assert found.dtype == np.float32
    assert found.flags.writeable
    torch_dtype = getattr(torch, store_dtype)
    want = torch.from_numpy(rows).to(torch_dtype).float().numpy()
    np.testing.assert_array_equal(found[np.lexsort(found.T)], want[np.lexsort(want.T)])
    size = sum(file.stat().st_size for file in (tmp_path / str(NARROW)).iterdir())
    assert size == bytes_needed(60, [3], store_dtype)


def test_hook_points_of_other_widths_stay_aligned(tmp_path: Path) -> None:
    cache = _fill(tmp_path)
    assert (cache.width_of(NARROW), cache.width_of(WIDE)) == (3, 5)
    seen = []
    for batch in cache.joint_batches([WIDE, NARROW], 32, seed=1):
        assert batch[WIDE].shape == (32, 5)
        np.testing.assert_array_equal(batch[WIDE][:, :3], batch[NARROW])
        seen += batch[NARROW][:, 0].tolist()
    assert len(set(seen)) == len(seen) == 500 // 32 * 32
    assert seen == [row[0] for batch in cache.batches(NARROW, 32, seed=1) for row in batch]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    batch_rows=st.integers(1, 40),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_turns_are_each_row_once(sizes: list[int], batch_rows: int, seed: int, epoch: int) -> None:
    first_row = np.cumsum([0, *sizes])
    found = []
    for turn in turns(sizes, batch_rows, seed, epoch):
        rows = np.concatenate([turn.left_l, first_row[turn.shard] + np.arange(sizes[turn.shard])])
        found += rows[turn.batches].tolist()
    assert [len(batch) for batch in found] == [batch_rows] * (sum(sizes) // batch_rows)
    numbers = [number for batch in found for number in batch]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(("batch_rows", "shards"), [(32, 4), (7, 3), (150, 5), (500, 4), (9, 1), (60, 40)])
def test_any_place_of_an_epoch_is_reached_without_the_rows_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int, shards: int
) -> None:
    cache = _fill(tmp_path, shards=shards)
    whole = list(cache.batches(NARROW, batch_rows, seed=2, epoch=3))
    for start in range(len(whole) + 1):
        rest = list(ActivationCache(tmp_path).batches(NARROW, batch_rows, seed=2, epoch=3, start=start))
        assert len(rest) == len(whole) - start
        assert all(np.array_equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    read: list[Path] = []
    monkeypatch.setattr(shard_module, "crc32", lambda path, size: read.append(path) or _crc(path, size))
    list(ActivationCache(tmp_path).batches(NARROW, batch_rows, seed=2, epoch=3))
    assert len(read) == len(set(read))  # no shard twice
    everything = len(read)
    read.clear()
    last = ActivationCache(tmp_path).batches(NARROW, batch_rows, seed=2, epoch=3, start=len(whole) - 1)
    assert len(list(last)) == 1
    if batch_rows < 32 and shards > 1:
        assert len(read) < everything


_crc = shard_module.crc32


@pytest.mark.parametrize("file", [f"{WIDE}/shard-0002.bin", f"{NARROW}/shard-0000.bin", "heldout/tokens.bin"])
def test_a_flipped_bit_is_found(tmp_path: Path, file: str) -> None:
    cache = _fill(tmp_path, store_dtype="bfloat16")
    files, size = cache.require_whole()
    assert files == 2 * 4 + 3
    assert size == 500 * 8 * 2 + 7 * 9
    _flip(tmp_path / file, 13)
    damaged = ActivationCache(tmp_path)
    with pytest.raises(FeaturewatchError, match=rf"cache file .*{file}.*checksum is not the one .* harvest again"):
        damaged.require_whole()
    if file.startswith("heldout"):
        with pytest.raises(FeaturewatchError, match="checksum"):
            damaged.heldout_column("tokens")
    else:
        point = HookPoint.parse(file.partition("/")[0])
        with pytest.raises(FeaturewatchError, match="checksum"):
            list(damaged.batches(point, 16, seed=0))
        other = NARROW if point == WIDE else WIDE
        assert len(list(damaged.batches(other, 16, seed=0))) == 500 // 16


def test_rows_that_wait_from_a_damaged_shard_are_not_given_out(tmp_path: Path) -> None:
    """Starting behind a shard's own batches, its rest must still be proven."""
    cache = _fill(tmp_path)
    order = list(turns(cache.manifest.shard_rows, 60, 0, 0))
    second = next(index for index, turn in enumerate(order) if index and len(turn.left_l))
    start = sum(len(turn.batches) for turn in order[:second])
    _flip(tmp_path / str(NARROW) / f"shard-{order[second - 1].shard:04d}.bin", 5)
    with pytest.raises(FeaturewatchError, match="checksum"):
        next(ActivationCache(tmp_path).batches(NARROW, 60, seed=0, start=start))


def test_a_file_that_was_cut_off_is_told_when_read(tmp_path: Path) -> None:
    _fill(tmp_path)
    path = tmp_path / str(NARROW) / "shard-0001.bin"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(FeaturewatchError, match=r"shard-0001.bin: it has [\d,]+ bytes, and the manifest counts"):
        list(ActivationCache(tmp_path).batches(NARROW, 10, seed=0))
    path.unlink()
    with pytest.raises(FeaturewatchError, match=r"shard-0001.bin: it has 0 bytes"):
        list(ActivationCache(tmp_path).batches(NARROW, 10, seed=0))


def test_checksums_go_on_after_an_interruption(tmp_path: Path) -> None:
    """Also over rows of a version that noted none, and over bytes that were cut off."""
    _fill(tmp_path)
    manifest = Manifest.load(tmp_path)
    manifest.checksums, manifest.heldout_checksums = {}, {}
    manifest.save(tmp_path)
    with pytest.raises(FeaturewatchError, match="noted no checksums"):
        ActivationCache(tmp_path).require_whole()
    assert len(list(ActivationCache(tmp_path).batches(NARROW, 10, seed=0))) == 50  # it is read all the same
    for file in (tmp_path / str(WIDE)).iterdir():
        file.write_bytes(file.read_bytes() + b"half a row")
    for first in (500, 550):
        writer = CacheWriter(tmp_path, Manifest.load(tmp_path))
        numbers_n = np.arange(first, first + 50, dtype=np.float32)[:, None]
        writer.append({NARROW: np.repeat(numbers_n, 3, 1), WIDE: np.repeat(numbers_n, 5, 1)}, _rng(first))
        writer.flush()
    cache = ActivationCache(tmp_path)
    cache.require_whole()
    rows = np.concatenate(list(cache.batches(WIDE, 1, seed=0)))[:, 4]
    assert sorted(rows.tolist()) == list(range(600))


@contextmanager
def _files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: as with a full disk, the write fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_what_the_manifest_counts(tmp_path: Path) -> None:
    _fill(tmp_path, rows=200, shards=1)
    writer = CacheWriter(tmp_path, Manifest.load(tmp_path))
    numbers_n = np.arange(200, 5000, dtype=np.float32)[:, None]
    rows = {NARROW: np.repeat(numbers_n, 3, 1), WIDE: np.repeat(numbers_n, 5, 1)}
    with (
        _files_up_to(16_000),
        pytest.raises(FeaturewatchError, match=r"the disk filled up .* is kept\. Make room and give the same command"),
    ):
        writer.append(rows, _rng(0))
    cache = ActivationCache(tmp_path)
    cache.require_whole()
    assert cache.manifest.rows == 200
    writer = CacheWriter(tmp_path, Manifest.load(tmp_path))
    writer.append(rows, _rng(0))
    writer.flush()
    found = itertools.chain.from_iterable(ActivationCache(tmp_path).batches(NARROW, 100, seed=0))
    assert sorted(row[0] for row in found) == list(range(5000))


def test_another_failure_of_the_disk_is_not_called_full(tmp_path: Path) -> None:
    _fill(tmp_path)
    writer = CacheWriter(tmp_path, Manifest.load(tmp_path))
    shard = tmp_path / str(NARROW) / "shard-0000.bin"
    shard.unlink()
    shard.mkdir()
    with pytest.raises(IsADirectoryError):
        writer.append({NARROW: np.ones((40, 3), np.float32), WIDE: np.ones((40, 5), np.float32)}, _rng(0))


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({"width": None}, "width None: Input should be a valid integer"),
        ({"width": 0}, "width 0"),
        ({"counts": []}, r"counts \[\]: Input should be an object"),
        ({"counts": {"kept": "many"}}, "counts.kept 'many': Input should be a valid integer"),
        ({"shard_rows": 3}, "shard_rows 3: "),
        ({"shard_rows": ["3"]}, "shard_rows.0 '3': "),
        ({"shard_rows": [-3]}, "a negative number of rows"),
        ({"hook_points": []}, r"hook_points \[\]"),
        ({"hook_points": ["../elsewhere"]}, "a hook point is written"),
        ({"store_dtype": "int8"}, "store_dtype 'int8'"),
        ({"settings": {"outlier_factor": "six"}}, "settings.outlier_factor 'six'"),
        ({"identity": {"model": 3}}, "identity.model 3: Input should be a valid string"),
        ({"medians": {str(NARROW): "x"}}, "medians.resid_post.0 'x': Input should be a valid number"),
        ({"medians": {str(WIDE): 1.0}}, "medians of attn_z.0"),
        ({"widths": {str(NARROW): 1.5}}, "widths.resid_post.0 1.5: "),
        ({"checksums": {str(NARROW): [1, 2]}}, "checksums that are not those of 1 shards"),
        ({"checksums": {str(NARROW): [None]}}, "checksums.resid_post.0.0 None: "),
        ({"norm_quantiles": {str(NARROW): {"0.5": 1.0}}}, "norm_quantiles of resid_post.0"),
        ({"sources": {"web": {"documents": 3, "licences": "MIT"}}}, "sources .*MIT"),
        ({"younger": 1}, "younger 1: Unexpected keyword argument"),
    ],
)
def test_a_manifest_with_odd_values_is_told(tmp_path: Path, odd: dict[str, object], says: str) -> None:
    held = dataclasses.asdict(Manifest(4, [str(NARROW)], "float32", [0], {}))
    (tmp_path / "manifest.json").write_text(json.dumps(held | odd))
    with pytest.raises(FeaturewatchError, match=says):
        ActivationCache(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}"])
def test_a_manifest_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(FeaturewatchError, match="is damaged or of another version of featurewatch"):
        ActivationCache(tmp_path)


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    name = str(NARROW)
    manifest = Manifest(4, [name], "float32", [3, 0], {"seed": 0, "outlier_factor": 6}, {"model": "ab"})
    manifest.medians, manifest.checksums = {name: math.inf}, {name: [1, 2**32 - 1]}
    manifest.sources = {"web": {"documents": 3, "licences": {"MIT": 3}}}
    manifest.engine = {"version": "1", "hook_points": [name]}
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
