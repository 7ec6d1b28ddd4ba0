"""The exact k-th largest value over all ranks, by radix selection.

Positive float32 values are ordered as their bit patterns are. Three histograms of these (11, 10 and 10 bits), each
summed over the ranks, name the value's bits from the top down: 32 KiB of counts, whatever the number of candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

_DIGITS: Final = ((20, 11), (10, 10), (0, 10))
"""Shift and bits of each digit; together the 31 bits below the sign."""


def global_cut(candidates_c: Tensor, count: int, sum_counts_: Callable[[Tensor], Tensor]) -> Tensor:
    """The `count`-th largest of the candidates of all ranks, a float32 scalar; 0 when there are fewer.

    Args:
        candidates_c: this rank's values, float32, none negative.
        count: at least 1.
        sum_counts_: adds up an int64 tensor over the ranks, in place, and returns it.
    """
    bits_c = candidates_c.contiguous().view(torch.int32)
    cut, left = 0, count
    for shift, width in _DIGITS:
        digits_c = (bits_c >> shift) & ((1 << width) - 1)
        counts = sum_counts_(torch.bincount(digits_c, minlength=1 << width))
        from_here = counts.flip(0).cumsum(0).flip(0)
        digit = int((from_here >= left).sum()) - 1
        if digit < 0:
            return candidates_c.new_zeros(())
        left -= int(from_here[digit] - counts[digit])
        cut |= digit << shift
        bits_c = bits_c[digits_c == digit]
    return torch.tensor(cut, dtype=torch.int32, device=candidates_c.device).view(torch.float32)
