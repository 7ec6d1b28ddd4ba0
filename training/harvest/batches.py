"""Groups sequences of similar length into forward batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.harvest.tokens import Reason, TokenSequence

# Sequences are sorted by length within a pool of this many batches; held-out ones are few, so their pool is small.
_POOL_BATCHES = {False: 16, True: 2}


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded sequences; causal attention keeps the padding from reaching the tokens before it.

    Attributes:
        token_ids_bt: int64 [b, t].
        reasons_bt: uint8 [b, t], `Reason.PADDING` where padded.
        held_out: all of the batch is held out, or none.
    """

    token_ids_bt: npt.NDArray[np.int64]
    reasons_bt: npt.NDArray[np.uint8]
    held_out: bool

    @property
    def lengths_b(self) -> npt.NDArray[np.int64]:
        """[b], tokens of each sequence."""
        return np.asarray((self.reasons_bt != Reason.PADDING).sum(axis=1), np.int64)


def make_batches(sequences: Iterable[TokenSequence], batch_tokens: int) -> Iterator[TokenBatch]:
    """Batches of at most `batch_tokens` positions; held-out sequences get batches of their own."""
    pools: dict[bool, list[TokenSequence]] = {False: [], True: []}
    for sequence in sequences:
        pool = pools[sequence.held_out]
        pool.append(sequence)
        if _positions(pool) >= _POOL_BATCHES[sequence.held_out] * batch_tokens:
            yield from _from_pool(pool, batch_tokens)
            pool.clear()
    for pool in pools.values():
        yield from _from_pool(pool, batch_tokens)


def pad(sequences: Sequence[TokenSequence]) -> TokenBatch:
    """One batch of the given sequences."""
    longest = max(len(sequence.token_ids_n) for sequence in sequences)
    token_ids_bt = np.zeros((len(sequences), longest), np.int64)
    reasons_bt = np.full((len(sequences), longest), Reason.PADDING, np.uint8)
    for row, sequence in enumerate(sequences):
        length = len(sequence.token_ids_n)
        token_ids_bt[row, :length] = sequence.token_ids_n
        reasons_bt[row, :length] = sequence.reasons_n
    return TokenBatch(token_ids_bt, reasons_bt, sequences[0].held_out)


def _positions(pool: Sequence[TokenSequence]) -> int:
    return sum(len(sequence.token_ids_n) for sequence in pool)


def _from_pool(pool: Sequence[TokenSequence], batch_tokens: int) -> Iterator[TokenBatch]:
    batch: list[TokenSequence] = []
    for sequence in sorted(pool, key=lambda item: -len(item.token_ids_n)):
        # Sorted by falling length, so the first one sets the padded length.
        if batch and (len(batch) + 1) * len(batch[0].token_ids_n) > batch_tokens:
            yield pad(batch)
            batch = []
        batch.append(sequence)
    if batch:
        yield pad(batch)
