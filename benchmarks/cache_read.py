"""How fast shuffled batches come from an activation cache, beside a training that needs them.

    python benchmarks/cache_read.py --rows 500000 --points 2

Fills a cache in a temporary folder, then reads whole epochs: the first one compares checksums, the second does not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from monitor.sae import HookPoint
from training.harvest.cache import ActivationCache
from training.harvest.cache_writer import CacheWriter
from training.harvest.manifest import Manifest
from training.harvest.store import STORE_DTYPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--points", type=int, default=1, help="hook points read together")
    parser.add_argument("--batch-rows", type=int, default=4096)
    parser.add_argument("--shard-rows", type=int, default=262_144)
    arguments = parser.parse_args()
    points = [HookPoint(layer) for layer in range(arguments.points)]
    print(f"{'dtype':<10}{'epoch':>6}{'rows/s, all points':>24}{'first batch s':>15}{'from the middle s':>19}")
    for store_dtype in STORE_DTYPES:
        with tempfile.TemporaryDirectory() as folder:
            _fill(Path(folder), points, store_dtype, arguments)
            cache = ActivationCache(Path(folder))
            for epoch in (0, 1):
                rate, first = _epoch(cache, points, arguments.batch_rows, epoch)
                middle = _middle(cache, points, arguments)
                print(f"{store_dtype:<10}{epoch:>6}{rate:>24,.0f}{first:>15.3f}{middle:>19.3f}")


def _fill(folder: Path, points: list[HookPoint], store_dtype: str, arguments: argparse.Namespace) -> None:
    shards = max(1, round(arguments.rows / arguments.shard_rows))
    writer = CacheWriter(folder, Manifest(arguments.width, list(map(str, points)), store_dtype, [0] * shards, {}))
    rng = np.random.default_rng(0)
    for _ in range(0, arguments.rows, 20_000):
        rows_nd = rng.standard_normal((20_000, arguments.width), np.float32)
        writer.append(dict.fromkeys(points, rows_nd), rng)
    writer.flush()


def _epoch(cache: ActivationCache, points: list[HookPoint], batch_rows: int, epoch: int) -> tuple[float, float]:
    """Rows of all hook points per second, and seconds until the first batch."""
    started = time.perf_counter()
    first, rows = 0.0, 0
    for batch in cache.joint_batches(points, batch_rows, 0, epoch):
        first = first or time.perf_counter() - started
        rows += len(batch[points[0]])
    return rows * len(points) / (time.perf_counter() - started), first


def _middle(cache: ActivationCache, points: list[HookPoint], arguments: argparse.Namespace) -> float:
    """Seconds to the first batch behind half an epoch, as after an interruption."""
    started = time.perf_counter()
    half = arguments.rows // 2 // arguments.batch_rows
    next(cache.joint_batches(points, arguments.batch_rows, 0, 1, half))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
