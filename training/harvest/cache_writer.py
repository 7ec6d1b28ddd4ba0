"""Fills an activation cache; its layout is told in `cache`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.sae import HookPoint
from training import durable
from training.harvest.cache import HELDOUT_COLUMNS, shard_path
from training.harvest.disk import full_disk_is_told
from training.harvest.growing_file import GrowingFile
from training.harvest.manifest import Manifest
from training.harvest.store import Floats, held_as, stored


class CacheWriter:
    """Appends rows to random shards, after the rows that the manifest counts."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._shards = {point: self._open_shards(point) for point in manifest.hook_points}
        durable.make_folder(folder / "heldout")
        self._heldout = {
            name: GrowingFile(
                folder / "heldout" / f"{name}.bin",
                manifest.heldout_rows * dtype.itemsize,
                manifest.heldout_checksums.get(name),
            )
            for name, dtype in HELDOUT_COLUMNS.items()
        }
        # The files are new: their names are on the disk before a manifest counts rows in them.
        for name in (*manifest.hook_points, "heldout"):
            durable.sync_folder(folder / name)

    def append(self, rows: dict[HookPoint, Floats], rng: np.random.Generator) -> None:
        """Adds training rows, [n, width] per hook point, the same n rows for all.

        Raises:
            FeaturewatchError: the disk is full.
        """
        count = len(next(iter(rows.values())))
        shard_n = rng.integers(0, len(self.manifest.shard_rows), count)
        order_n = np.argsort(shard_n, kind="stable")
        sizes = np.bincount(shard_n, minlength=len(self.manifest.shard_rows))
        with full_disk_is_told(self.folder):
            for hook_point, rows_nd in rows.items():
                parts = np.split(stored(rows_nd[order_n], self.manifest.store_dtype), np.cumsum(sizes)[:-1])
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
        columns: dict[str, npt.NDArray[Any]] = {"tokens": token_ids_n, "sequences": sequences_n, "reasons": reasons_n}
        with full_disk_is_told(self.folder):
            for name, dtype in HELDOUT_COLUMNS.items():
                self._heldout[name].append(columns[name].astype(dtype).tobytes())
        self.manifest.heldout_rows += len(token_ids_n)

    def flush(self) -> None:
        """Makes everything so far part of the cache; raises FeaturewatchError when the disk is full."""
        manifest = self.manifest
        with full_disk_is_told(self.folder):
            for file in (*(file for files in self._shards.values() for file in files), *self._heldout.values()):
                file.sync()
            manifest.checksums = {point: [file.checksum for file in files] for point, files in self._shards.items()}
            manifest.heldout_checksums = {name: file.checksum for name, file in self._heldout.items()}
            manifest.save(self.folder)

    def _open_shards(self, point: str) -> list[GrowingFile]:
        durable.make_folder(self.folder / point)
        manifest = self.manifest
        row_bytes = manifest.width_of(point) * held_as(manifest.store_dtype).itemsize
        checksums: Sequence[int | None] = manifest.checksums.get(point) or [None] * len(manifest.shard_rows)
        return [
            GrowingFile(shard_path(self.folder, point, shard), rows * row_bytes, checksum)
            for shard, (rows, checksum) in enumerate(zip(manifest.shard_rows, checksums, strict=True))
        ]
