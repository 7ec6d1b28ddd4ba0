"""The activation cache: residual rows on disk in a globally shuffled order.

Every row is sent to a shard drawn at random and each shard is permuted when it is read; together this is a uniform
shuffle of all rows with sequential reads and writes only. Layout of a cache folder::

    manifest.json                         settings, counts, rows per shard
    <hook point>/shard-0003.bin           rows [n, d], float16 or float32
    heldout/{tokens,sequences,reasons}.bin    every position of the held-out sequences, in order

The manifest is written after each flush, so a harvest that was interrupted goes on from it: files are cut back to the
rows that the manifest counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.manifest import Manifest

Floats = npt.NDArray[np.float32]


class CacheWriter:
    """Appends rows to random shards, after the rows that the manifest counts."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._store = np.dtype(manifest.store_dtype)
        for hook_point in manifest.hook_points:
            (folder / hook_point).mkdir(parents=True, exist_ok=True)
        (folder / "heldout").mkdir(exist_ok=True)
        row_bytes = manifest.width * self._store.itemsize
        self._shards = {
            hook_point: [
                _GrowingFile(_shard_path(folder, hook_point, shard), rows * row_bytes)
                for shard, rows in enumerate(manifest.shard_rows)
            ]
            for hook_point in manifest.hook_points
        }
        self._heldout = {
            name: _GrowingFile(folder / "heldout" / f"{name}.bin", manifest.heldout_rows * size)
            for name, size in [("tokens", 4), ("sequences", 4), ("reasons", 1)]
        }

    def append(self, rows: dict[HookPoint, Floats], rng: np.random.Generator) -> None:
        """Adds training rows, [n, d] per hook point, the same n rows for all."""
        count = len(next(iter(rows.values())))
        shard_n = rng.integers(0, len(self.manifest.shard_rows), count)
        order_n = np.argsort(shard_n, kind="stable")
        sizes = np.bincount(shard_n, minlength=len(self.manifest.shard_rows))
        for hook_point, rows_nd in rows.items():
            parts = np.split(rows_nd[order_n].astype(self._store), np.cumsum(sizes)[:-1])
            for file, part in zip(self._shards[str(hook_point)], parts, strict=True):
                file.append(part.tobytes())
        for shard, size in enumerate(sizes):
            self.manifest.shard_rows[shard] += int(size)

    def append_heldout(
        self,
        token_ids_n: npt.NDArray[np.int32],
        sequences_n: npt.NDArray[np.int32],
        reasons_n: npt.NDArray[np.uint8],
    ) -> None:
        """Adds held-out positions, excluded ones too. Their residuals are computed again for the card, in float32."""
        self._heldout["tokens"].append(token_ids_n.astype(np.int32).tobytes())
        self._heldout["sequences"].append(sequences_n.astype(np.int32).tobytes())
        self._heldout["reasons"].append(reasons_n.astype(np.uint8).tobytes())
        self.manifest.heldout_rows += len(token_ids_n)

    def flush(self) -> None:
        """Makes everything so far part of the cache."""
        for file in self._files():
            file.sync()
        self.manifest.save(self.folder)

    def _files(self) -> list[_GrowingFile]:
        return [*(file for files in self._shards.values() for file in files), *self._heldout.values()]


class ActivationCache:
    """Reads a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.load(folder)
        self._store = np.dtype(self.manifest.store_dtype)

    def require(self, hook_point: HookPoint) -> None:
        if str(hook_point) not in self.manifest.hook_points:
            raise FeaturewatchError(
                f"hook point '{hook_point}'",
                f"the cache {self.folder} holds {', '.join(self.manifest.hook_points)}",
                "harvest it first",
            )

    def batches(self, hook_point: HookPoint, batch_rows: int, seed: int, epoch: int = 0) -> Iterator[Floats]:
        """Each row of a hook point once (less a short rest), ordered by seed and epoch; float32 [batch_rows, d]."""
        rng = np.random.default_rng([seed, epoch])
        left = np.empty((0, self.manifest.width), self._store)
        for shard in rng.permutation(len(self.manifest.shard_rows)):
            rows_nd = np.concatenate([left, self._shard(hook_point, int(shard))[:]])
            order_n = rng.permutation(len(rows_nd))
            whole = len(rows_nd) // batch_rows * batch_rows
            for start in range(0, whole, batch_rows):
                yield rows_nd[order_n[start : start + batch_rows]].astype(np.float32)
            left = rows_nd[order_n[whole:]]

    def heldout_column(self, name: str) -> npt.NDArray[Any]:
        """`tokens` or `sequences` (int32 [n]) or `reasons` (uint8 [n]) of the held-out positions."""
        dtype = np.uint8 if name == "reasons" else np.int32
        return np.fromfile(self.folder / "heldout" / f"{name}.bin", dtype)[: self.manifest.heldout_rows]

    def _shard(self, hook_point: HookPoint, shard: int) -> npt.NDArray[Any]:
        return self._map(_shard_path(self.folder, str(hook_point), shard), self.manifest.shard_rows[shard])

    def _map(self, path: Path, rows: int) -> npt.NDArray[Any]:
        if not rows:
            return np.empty((0, self.manifest.width), self._store)
        return np.memmap(path, self._store, "r", shape=(rows, self.manifest.width))


def bytes_needed(rows: int, width: int, hook_points: int, store_dtype: str) -> int:
    """Disk bytes of the training rows."""
    return rows * width * np.dtype(store_dtype).itemsize * hook_points


def _shard_path(folder: Path, hook_point: str, shard: int) -> Path:
    return folder / hook_point / f"shard-{shard:04d}.bin"


class _GrowingFile:
    """Appends to a file that is open only while it is written: shards times hook points may be thousands.

    What an interrupted run wrote beyond `size` bytes is cut off.
    """

    def __init__(self, path: Path, size: int) -> None:
        path.touch()
        held = path.stat().st_size
        if held < size:
            raise FeaturewatchError(
                f"cache file {path} of {held} bytes",
                f"the manifest counts {size}",
                "remove the cache folder and harvest again",
            )
        os.truncate(path, size)
        self._path, self._is_dirty = path, False

    def append(self, data: bytes) -> None:
        if data:
            with self._path.open("ab") as file:
                file.write(data)
            self._is_dirty = True

    def sync(self) -> None:
        """Brings what was appended to the disk."""
        if self._is_dirty:
            with self._path.open("rb+") as file:
                os.fsync(file.fileno())
            self._is_dirty = False
