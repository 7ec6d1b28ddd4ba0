"""The order in which a cache is read: the shards in random order, each permuted together with what is left before it.

The order follows from sizes, seed and epoch alone, so that any place in it is reached without reading the rows before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Turn:
    """The batches that one more shard makes whole.

    Attributes:
        shard: its number.
        left_l: rows of earlier shards that no batch had room for, numbered over the whole cache, shard after shard.
        batches: int64 [batches, batch_rows]; i below l is row ``left_l[i]``, any other is row ``i - l`` of the shard.
    """

    shard: int
    left_l: Indices
    batches: Indices


def turns(shard_rows: Sequence[int], batch_rows: int, seed: int, epoch: int) -> Iterator[Turn]:
    """One epoch: every row once, less a rest shorter than a batch."""
    rng = np.random.default_rng([seed, epoch])
    first_row = np.concatenate([[0], np.cumsum(shard_rows, dtype=np.int64)])
    left_l = np.empty(0, np.int64)
    for shard in rng.permutation(len(shard_rows)):
        waiting = len(left_l)
        order_n = rng.permutation(waiting + shard_rows[shard])
        count = len(order_n) // batch_rows
        yield Turn(int(shard), left_l, order_n[: count * batch_rows].reshape(count, batch_rows))
        rest_n = order_n[count * batch_rows :]
        rows_n = np.concatenate([left_l, first_row[shard] + np.arange(shard_rows[shard])])
        left_l = rows_n[rest_n]
