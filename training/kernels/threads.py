"""Compiled loops side by side, on as many threads as torch has.

Not numba's own threads: its OpenMP is another one than torch's, whose workers go on spinning after a product and keep
the cores from it for 10 ms and more at every change between both; its other pool ends the process when two threads use
it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count
from typing import Final

import torch

PARTS: Final = 32
"""Into how many shares work is cut, whatever the number of threads: partial sums come out the same on any machine."""


def spread(loop: Callable[[int, int, int], object], size: int) -> None:
    """Calls ``loop(low, high, part)`` for `PARTS` consecutive shares of ``range(size)``; the loop must release the
    lock.

    Whoever is free takes the next share. Returns when all are done.
    """
    parts = min(PARTS, size)
    bounds = [size * part // max(parts, 1) for part in range(parts + 1)]
    tickets = count()

    def work() -> None:
        while (part := next(tickets)) < parts:
            loop(bounds[part], bounds[part + 1], part)

    helpers = min(torch.get_num_threads(), parts) - 1
    running = [_pool(os.getpid()).submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        for helper in running:
            helper.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """One per process: a forked child has none of its parent's threads."""
    del process
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="sparse")
