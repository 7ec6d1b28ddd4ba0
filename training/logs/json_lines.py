"""``metrics.jsonl``: one object a line."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

DECADES = np.arange(-7, 1)


class JsonLines:
    """Appends to a file after its first `size` bytes; what an interrupted run wrote behind them is cut off."""

    def __init__(self, path: Path, size: int) -> None:
        path.touch()
        os.truncate(path, min(size, path.stat().st_size))
        self._file = path.open("a")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._line({"step": step, **{name: _json(value) for name, value in figures.items()}})

    def finish(self, step: int, density_m: npt.NDArray[np.float32]) -> None:
        """Latents per decade of their firing rate; the first count is of those that never fired."""
        self._line({"step": step, "density_histogram": density_histogram(density_m)})

    def position(self) -> int:
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def _line(self, values: Mapping[str, object]) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()


def density_histogram(density_m: npt.NDArray[np.float32]) -> dict[str, int]:
    """Latents by firing rate: ``never``, then decades named by their lower and upper end."""
    alive = np.log10(density_m[density_m > 0])
    counts, _ = np.histogram(np.clip(alive, DECADES[0], DECADES[-1]), DECADES)
    names = [f"1e{low}..1e{high}" for low, high in itertools.pairwise(DECADES)]
    return {"never": int((density_m == 0).sum()), **dict(zip(names, map(int, counts), strict=True))}


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
