"""The activation cache: rows on disk in a globally shuffled order.

Every row is sent to a shard drawn at random and each shard is permuted when it is read (see `shuffle`); together this
is a uniform shuffle of all rows with sequential reads and writes only. Layout of a cache folder::

    manifest.json                         settings, counts, rows and checksum per shard
    <hook point>/shard-0003.bin           rows [n, width]; float16, float32, or bfloat16 as uint16
    heldout/{tokens,sequences,reasons}.bin    every position of the held-out sequences, in order

The manifest is written after each flush, so a harvest that was interrupted goes on from it: files are cut back to the
rows that the manifest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.manifest import Manifest
from training.harvest.shard import Shard
from training.harvest.shuffle import Indices, Turn, turns
from training.harvest.store import Floats, Stored, as_floats, held_as

HELDOUT_COLUMNS: Final[dict[str, np.dtype[Any]]] = {
    "tokens": np.dtype(np.int32),
    "sequences": np.dtype(np.int32),
    "reasons": np.dtype(np.uint8),
}


class ActivationCache:
    """Reads a cache. A shard is compared with its checksum before its first row is given out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.load(folder)
        self._shards: dict[tuple[str, int], Shard] = {}

    def require(self, hook_point: HookPoint) -> None:
        if str(hook_point) not in self.manifest.hook_points:
            raise FeaturewatchError(
                f"hook point '{hook_point}'",
                f"the cache {self.folder} holds {', '.join(self.manifest.hook_points)}",
                "harvest it first",
            )

    def width_of(self, hook_point: HookPoint) -> int:
        """Values per row; raises FeaturewatchError when the cache lacks the hook point."""
        self.require(hook_point)
        return self.manifest.width_of(str(hook_point))

    def batches(
        self, hook_point: HookPoint, batch_rows: int, seed: int, epoch: int = 0, start: int = 0
    ) -> Iterator[Floats]:
        """Each row of a hook point once (less a short rest), ordered by seed and epoch; float32 [batch_rows, width].

        Args:
            hook_point: whose rows.
            batch_rows: of each batch.
            seed, epoch: set the order.
            start: begin with this batch of the epoch; the rows of those before are not read.

        Raises:
            FeaturewatchError: the cache lacks the hook point, or a shard is damaged.
        """
        for batch in self.joint_batches([hook_point], batch_rows, seed, epoch, start):
            yield batch[hook_point]

    def joint_batches(
        self, hook_points: Sequence[HookPoint], batch_rows: int, seed: int, epoch: int = 0, start: int = 0
    ) -> Iterator[dict[HookPoint, Floats]]:
        """Like `batches`, the rows of the same tokens at several hook points."""
        for point in hook_points:
            self.require(point)
        order = turns(self.manifest.shard_rows, batch_rows, seed, epoch)
        with ThreadPoolExecutor(1, "cache") as reader:
            for turn, is_read, skipped in _read_ahead(order, start, lambda turn: self._read(hook_points, turn, reader)):
                is_read.result()
                left = {point: self._numbered(point, turn.left_l) for point in hook_points}
                shard = {point: self._shard(str(point), turn.shard).mapped() for point in hook_points}
                for chosen_n in turn.batches[skipped:]:
                    yield {point: self._gathered(left[point], shard[point], chosen_n) for point in hook_points}

    def heldout_column(self, name: str) -> npt.NDArray[Any]:
        """`tokens` or `sequences` (int32 [n]) or `reasons` (uint8 [n]) of the held-out positions."""
        return self._heldout(name).mapped()[:, 0]

    def require_whole(self) -> tuple[int, int]:
        """Reads all files and compares them with size and checksum; returns how many files and bytes these were.

        Raises:
            FeaturewatchError: one is damaged, or the cache is of a version that noted no checksums.
        """
        if not self.manifest.checksums:
            raise FeaturewatchError(
                f"activation cache {self.folder}",
                "it was made by an older version of featurewatch, which noted no checksums",
                "use it as it is, or harvest again into another --cache folder",
            )
        shards = [self._shard(point, s) for point in self.manifest.hook_points for s in range(len(self._sizes))]
        shards += [self._heldout(name) for name in HELDOUT_COLUMNS]
        for shard in shards:
            shard.prove()
        return len(shards), sum(shard.size for shard in shards)

    @property
    def _sizes(self) -> list[int]:
        return self.manifest.shard_rows

    def _read(self, points: Sequence[HookPoint], turn: Turn, reader: ThreadPoolExecutor) -> Future[None]:
        """Brings a turn's shards into memory's page cache in the background, so that the gathers find them there."""
        earlier = set(self._shard_of(turn.left_l).tolist()) - {turn.shard}
        shards = [self._shard(str(point), number) for point in points for number in (turn.shard, *earlier)]

        def read() -> None:
            for shard in shards:
                shard.read()

        return reader.submit(read)

    def _gathered(self, left_ld: Stored, shard_nd: Stored, chosen_n: Indices) -> Floats:
        waiting = len(left_ld)
        if not len(shard_nd):
            found_nd = left_ld[chosen_n]
        else:
            # Clipped: rows that wait from earlier shards are put in afterwards.
            found_nd = shard_nd.take(chosen_n - waiting, axis=0, mode="clip")
            is_left_n = chosen_n < waiting
            found_nd[is_left_n] = left_ld[chosen_n[is_left_n]]
        return as_floats(found_nd, self.manifest.store_dtype)

    def _numbered(self, point: HookPoint, rows_l: Indices) -> Stored:
        """Rows by their number over all shards, as they are on disk."""
        name = str(point)
        found_ld = np.empty((len(rows_l), self.manifest.width_of(name)), held_as(self.manifest.store_dtype))
        shard_l = self._shard_of(rows_l)
        first_row = np.concatenate([[0], np.cumsum(self._sizes)])
        for shard in np.unique(shard_l):
            is_there_l = shard_l == shard
            found_ld[is_there_l] = self._shard(name, int(shard)).mapped()[rows_l[is_there_l] - first_row[shard]]
        return found_ld

    def _shard_of(self, rows_l: Indices) -> Indices:
        return np.searchsorted(np.cumsum(self._sizes), rows_l, side="right")

    def _shard(self, point: str, number: int) -> Shard:
        if (point, number) not in self._shards:
            manifest = self.manifest
            checksums = manifest.checksums.get(point)
            self._shards[point, number] = Shard(
                shard_path(self.folder, point, number),
                manifest.shard_rows[number],
                manifest.width_of(point),
                held_as(manifest.store_dtype),
                checksums[number] if checksums else None,
            )
        return self._shards[point, number]

    def _heldout(self, name: str) -> Shard:
        path = self.folder / "heldout" / f"{name}.bin"
        checksum = self.manifest.heldout_checksums.get(name)
        return Shard(path, self.manifest.heldout_rows, 1, HELDOUT_COLUMNS[name], checksum)


def shard_path(folder: Path, hook_point: str, shard: int) -> Path:
    return folder / hook_point / f"shard-{shard:04d}.bin"


def _read_ahead(
    order: Iterator[Turn], start: int, read: Callable[[Turn], Future[None]]
) -> Iterator[tuple[Turn, Future[None], int]]:
    """Turns with batches from batch `start` on, each when the next one is being read; and its batches to skip."""
    waiting = None
    for turn in order:
        if start >= len(turn.batches):
            start -= len(turn.batches)
            continue
        begun = turn, read(turn), start
        start = 0
        if waiting:
            yield waiting
        waiting = begun
    if waiting:
        yield waiting
