"""Which latents are active: exact selections on the CPU, each in one pass over the pre-activations."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from monitor.sae.row_loops import gather_rows, row_top_k_bits
from training.distributed.ranks import Ranks
from training.kernels.codes import SparseCodes
from training.kernels.compiled import Floats, Ints, Longs, compiled
from training.kernels.threads import PARTS, spread

_SAMPLE_ROWS: Final = 64


def batch_top_k(pre_nm: Tensor, count: int, ranks: Ranks, hint: float = 0.0) -> SparseCodes:
    """The `count` largest positive pre-activations of the batch over all ranks, exactly; the first of equal ones.

    On several ranks all values that equal the smallest kept one are kept.

    Args:
        pre_nm: float32 [n, m], contiguous.
        count: how many to keep over the whole batch.
        ranks: the processes that train together; all must give the same count and hint.
        hint: an estimate of the smallest kept value, e.g. the last batch's; it only saves time.
    """
    alone = ranks.row_shares == ranks.latent_shares == 1
    floor = 0.95 * hint if hint > 0 or not alone else _guess(pre_nm.numpy(), count)
    while True:
        row_starts_n1, latents_c, values_c = above(pre_nm, floor)
        smallest = ranks.batch_cut(torch.from_numpy(values_c), count)
        cut = float(smallest)
        if cut > 0 or floor <= 0:
            break
        floor = 0.5 * floor if floor > 1e-3 else 0.0
    if cut <= 0:
        return _codes(row_starts_n1, latents_c, values_c, smallest)
    equal = count - int((values_c > cut).sum()) if alone else len(values_c)
    return _codes(*_keep(row_starts_n1, latents_c, values_c, np.float32(cut), equal), smallest)


def row_top_k(pre_nm: Tensor, k: int, ranks: Ranks) -> SparseCodes:
    """The `k` largest positive pre-activations of each row over all ranks, exactly; the first of equal ones.

    On sharded latents all values that equal a row's smallest kept one are kept.
    """
    pre = pre_nm.numpy()
    n, m = pre.shape
    k = min(k, m)
    latents, values, found_n = np.empty((n, k), np.int32), np.zeros((n, k), np.float32), np.empty(n, np.int64)
    given = m, _bits(pre), k, latents, values.view(np.int32), found_n
    spread(lambda low, high, _: row_top_k_bits(low, high, *given), n)
    if ranks.latent_shares > 1:
        cuts_n = ranks.row_cuts_n(torch.from_numpy(values), k).numpy()
        _drop_below(latents, values, found_n, cuts_n)
    row_starts_n1 = np.concatenate([[0], np.cumsum(found_n)])
    if row_starts_n1[-1] == n * k:
        return _codes(row_starts_n1, latents.ravel(), values.ravel())
    held = np.arange(k) < found_n[:, None]
    return _codes(row_starts_n1, latents[held], values[held])


def above(pre_nm: Tensor, floor: float) -> tuple[Longs, Ints, Floats]:
    """All values above a floor of 0 or more: row starts [n + 1], latents and values."""
    pre = pre_nm.numpy()
    n, m = pre.shape
    found_n = np.zeros(n, np.int64)
    parts: list[tuple[Ints, Floats]] = [(np.empty(0, np.int32), np.empty(0, np.float32))] * PARTS

    bits, floor_bits = _bits(pre), int(np.float32(floor).view(np.int32))

    def gather(low: int, high: int, part: int) -> None:
        # Typical batches keep under a hundredth; what needs more room gets it.
        room = m + (high - low) * m // 32
        latents, values = np.empty(room, np.int32), np.empty(room, np.float32)
        row, used = gather_rows(low, high, m, bits, floor_bits, found_n, latents, values.view(np.int32), 0)
        while row < high:
            room = 2 * room + m
            latents, values = np.resize(latents, room), np.resize(values, room)
            row, used = gather_rows(row, high, m, bits, floor_bits, found_n, latents, values.view(np.int32), used)
        parts[part] = latents[:used], values[:used]

    spread(gather, n)
    starts = np.concatenate([[0], np.cumsum(found_n)])
    return starts, np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _codes(starts: Longs, latents: Ints, values: Floats, cut: Tensor | None = None) -> SparseCodes:
    return SparseCodes(torch.from_numpy(starts), torch.from_numpy(latents), torch.from_numpy(values), cut)


def _bits(pre: Floats) -> Ints:
    """The same memory as int32 [n * m]: values of 0 and more keep their order, all others lie below."""
    return pre.reshape(-1).view(np.int32)


def _guess(pre: Floats, count: int) -> float:
    """A floor for the first batch, a little below the cut of some of its rows."""
    sample = np.ascontiguousarray(pre[:: max(1, len(pre) // _SAMPLE_ROWS)]).ravel()
    kept = min(sample.size, int(1.5 * count * sample.size / max(pre.size, 1)) + 1)
    return max(0.0, float(np.partition(sample, sample.size - kept)[sample.size - kept])) if sample.size else 0.0


@compiled
def _keep(starts: Longs, latents: Ints, values: Floats, cut: np.float32, equal: int) -> tuple[Longs, Ints, Floats]:
    """Keeps the values above the cut and, from the start, as many as `equal` that equal it."""
    kept_starts = np.zeros_like(starts)
    kept_latents = np.empty(len(latents) + 1, np.int32)
    kept_values = np.empty(len(values) + 1, np.float32)
    at = 0
    for i in range(len(starts) - 1):
        for a in range(starts[i], starts[i + 1]):
            tie = (values[a] == cut) & (equal > 0)
            equal -= tie
            kept_latents[at] = latents[a]
            kept_values[at] = values[a]
            at += (values[a] > cut) | tie
        kept_starts[i + 1] = at
    return kept_starts, kept_latents[:at], kept_values[:at]


@compiled
def _drop_below(latents: Ints, values: Floats, found_n: Longs, cuts_n: Floats) -> None:
    """Keeps of each row what reaches its cut, in place."""
    for i in range(len(found_n)):
        at = 0
        for c in range(found_n[i]):
            latents[i, at] = latents[i, c]
            values[i, at] = values[i, c]
            at += values[i, c] >= cuts_n[i]
        found_n[i] = at
