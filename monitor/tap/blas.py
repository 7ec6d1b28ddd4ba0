"""Keeps numpy's matrix products on the calling thread.

The engine's threads already fill the cores. A product of 16 rows with 64 directions takes 20 us on one thread; split
over a pool whose other threads first have to be scheduled it takes milliseconds.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

_SETTERS: Final = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


def use_one_blas_thread() -> bool:
    """Limits the OpenBLAS that numpy has loaded into this process; returns False when it has another library."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return False
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if "openblas" in line}
    limited = False
    for path in paths:
        library = ctypes.CDLL(path)
        for name in _SETTERS:
            if hasattr(library, name):
                getattr(library, name)(ctypes.c_int(1))
                limited = True
    return limited
