"""Compilation of kernels with numba."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba

_log = logging.getLogger(__name__)


def kernel(function: Callable[..., Any]) -> Any:
    """Compiles `function` on first use, without the GIL, and keeps the machine code on disk for the next process.

    Where no cache folder can be written (read-only image without NUMBA_CACHE_DIR), it is compiled in every process.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        _log.info("kernel %s is compiled anew in every process: %s", function.__name__, error)
        return numba.njit(nogil=True)(function)
