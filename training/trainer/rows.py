"""Where the rows of a training come from."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.cache import ActivationCache

Floats = npt.NDArray[np.float32]
Batch = dict[HookPoint, Floats]
"""float32 [n, d] per hook point, the same n positions for all; fresh arrays that the taker may change."""


class RowSource(Protocol):
    """Batches of rows without an end, in an order that a seed decides.

    Attributes:
        batch_rows: rows of every batch.
        rows: of one pass over the data.
    """

    batch_rows: int
    rows: int

    def width_of(self, hook_point: HookPoint) -> int:
        """Raises FeaturewatchError when the source lacks the hook point."""
        ...

    def peek(self, batches: int) -> Batch:
        """The rows of the next `batches` batches in one, without moving on."""
        ...

    def take(self) -> Batch:
        """The next batch."""
        ...

    def position(self) -> dict[str, Any]:
        """In JSON form; after `restore` with it the source gives the same batches from there on, bit for bit."""
        ...

    def restore(self, position: Mapping[str, Any]) -> None: ...


class EpochRows(ABC):
    """A source that can begin each pass over its rows anew; a position is a pass and a number of batches."""

    def __init__(self, batch_rows: int, rows: int) -> None:
        self.batch_rows = batch_rows
        self.rows = rows
        self._epoch, self._taken = 0, 0
        self._batches: Iterator[Batch] | None = None

    @abstractmethod
    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one pass from number `start` on, in the same order whenever it is asked for."""

    def peek(self, batches: int) -> Batch:
        found = list(itertools.islice(self._ahead(), batches))
        return {point: np.concatenate([batch[point] for batch in found]) for point in found[0]}

    def take(self) -> Batch:
        while True:
            if self._batches is None:
                self._batches = self.epoch(self._epoch, self._taken)
            batch = next(self._batches, None)
            if batch is not None:
                self._taken += 1
                return batch
            _require_some(self._epoch, self._taken)
            self._epoch, self._taken, self._batches = self._epoch + 1, 0, None

    def position(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "taken": self._taken}

    def restore(self, position: Mapping[str, Any]) -> None:
        self._epoch, self._taken = int(position["epoch"]), int(position["taken"])
        self._batches = None

    def _ahead(self) -> Iterator[Batch]:
        yield from self.epoch(self._epoch, self._taken)
        for number in itertools.count(self._epoch + 1):
            given = 0
            for batch in self.epoch(number):
                given += 1
                yield batch
            _require_some(number, given)


class CacheRows(EpochRows):
    """Rows of an activation cache at some of its hook points, shuffled over the whole cache.

    Raises:
        FeaturewatchError: the cache lacks a hook point or has fewer rows than a batch.
    """

    def __init__(self, cache: ActivationCache, hook_points: Sequence[HookPoint], batch_rows: int, seed: int) -> None:
        for point in hook_points:
            cache.require(point)
        _require_batch(cache.manifest.rows, batch_rows)
        super().__init__(batch_rows, cache.manifest.rows)
        self._cache, self._points, self._seed = cache, tuple(hook_points), seed

    def width_of(self, hook_point: HookPoint) -> int:
        return self._cache.width_of(hook_point)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        return self._cache.joint_batches(self._points, self.batch_rows, self._seed, number, start)


class ArrayRows(EpochRows):
    """Rows in memory or in a memory-mapped file, [n, d] per hook point, shuffled by a seed.

    Raises:
        FeaturewatchError: the arrays differ in length, are no matrices or have fewer rows than a batch.
    """

    def __init__(self, rows: Mapping[HookPoint, npt.NDArray[Any]], batch_rows: int, seed: int = 0) -> None:
        shapes = {array.shape for array in rows.values()}
        if len({shape[0] for shape in shapes}) != 1 or any(len(shape) != 2 for shape in shapes):
            raise FeaturewatchError(
                f"rows of shapes {', '.join(map(str, sorted(shapes)))}",
                "each hook point has one matrix [n, d], with the same n positions for all",
                "give arrays of one length",
            )
        count = next(iter(shapes))[0]
        _require_batch(count, batch_rows)
        super().__init__(batch_rows, count)
        self._rows, self._seed = dict(rows), seed

    def width_of(self, hook_point: HookPoint) -> int:
        if hook_point not in self._rows:
            raise FeaturewatchError(
                f"hook point '{hook_point}'",
                f"there are rows of {', '.join(map(str, self._rows))}",
                "give its rows as well",
            )
        return int(self._rows[hook_point].shape[1])

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        order_n = np.random.default_rng([self._seed, number]).permutation(self.rows)
        for row in range(start * self.batch_rows, self.rows - self.batch_rows + 1, self.batch_rows):
            chosen = order_n[row : row + self.batch_rows]
            yield {point: rows_nd[chosen].astype(np.float32) for point, rows_nd in self._rows.items()}


class IteratorRows(EpochRows):
    """Rows of one hook point from any iterator of matrices [n, d], in their order: who makes them shuffles them.

    Args:
        arrays: called with the number of each pass over the data, from 0; gives the matrices of that pass, however long
            each is. A run that is resumed calls it again and skips what was taken.
        hook_point: whose rows they are.
        width: of a row.
        rows: of one pass.
        batch_rows: of a batch; what is left at the end of a pass is not used.

    Raises:
        FeaturewatchError: fewer rows than a batch, or a matrix of another width.
    """

    def __init__(
        self,
        arrays: Callable[[int], Iterable[npt.NDArray[Any]]],
        hook_point: HookPoint,
        *,
        width: int,
        rows: int,
        batch_rows: int,
    ) -> None:
        _require_batch(rows, batch_rows)
        super().__init__(batch_rows, rows)
        self._arrays, self._point, self._width = arrays, hook_point, width

    def width_of(self, hook_point: HookPoint) -> int:
        if hook_point != self._point:
            raise FeaturewatchError(
                f"hook point '{hook_point}'", f"the rows are of {self._point}", "give its rows in its place"
            )
        return self._width

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        return itertools.islice(self._whole_batches(number), start, None)

    def _whole_batches(self, number: int) -> Iterator[Batch]:
        waiting = np.empty((0, self._width), np.float32)
        for array in self._arrays(number):
            if array.ndim != 2 or array.shape[1] != self._width:
                raise FeaturewatchError(
                    f"rows of shape {array.shape}", f"they must be [n, {self._width}]", "give matrices of that width"
                )
            waiting = np.concatenate([waiting, array.astype(np.float32)])
            whole = len(waiting) // self.batch_rows * self.batch_rows
            for row in range(0, whole, self.batch_rows):
                yield {self._point: waiting[row : row + self.batch_rows].copy()}
            waiting = waiting[whole:]


def _require_some(number: int, batches: int) -> None:
    """A pass without a batch would be followed by passes without one for ever."""
    if not batches:
        raise FeaturewatchError(
            f"pass {number} over the rows",
            "it gave not even one batch, though the source counts more rows",
            "give the rows anew for each pass (an iterator that is used up has none), at least a batch of them",
        )


def _require_batch(rows: int, batch_rows: int) -> None:
    if rows < batch_rows:
        raise FeaturewatchError(
            f"training on {rows:,} rows",
            f"they are less than one batch of {batch_rows:,} rows, however many epochs",
            "harvest more --tokens or use smaller --batch-rows",
        )
