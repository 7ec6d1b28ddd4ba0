"""How the loops of this package are compiled.

Sums may be reordered into vector lanes. That stays the same from run to run as long as a loop that sums up does not
store as well: where arrays might overlap, LLVM keeps a scalar version of a loop and chooses by their addresses. Loops
release the interpreter's lock, and `training.kernels.threads` runs them side by side. NaN and infinity keep their
meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


class _Decorator(Protocol):
    """numba has no types of its own; its decorators keep the signature."""

    def __call__(self, function: Kernel, /) -> Kernel: ...


compiled: _Decorator = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
