"""The one operation the tap adds to the model's graph.

It is opaque to the compiler, takes tensors only and declares what it mutates: an operation without `mutates_args` is
deleted as dead code, a string argument would keep Inductor from sharing one compiled piece between layers, and plain
Python in a hook is silently never called under torch.compile.
"""

from __future__ import annotations

from typing import Any, Final

import torch

OP_REVISION: Final = 1
"""Part of the compile cache's key; raised whenever the graph that the tap produces changes."""

_LIBRARY: Any = None


def register_ops() -> None:
    """Defines `featurewatch::copy_residual` once per process."""
    global _LIBRARY  # noqa: PLW0603 -- the operators live as long as the library object
    if _LIBRARY is not None:
        return
    library: Any = torch.library.Library("featurewatch", "DEF")  # type: ignore[no-untyped-call]
    library.define("copy_residual(Tensor residual, Tensor(a!) buffer, Tensor(b!) fired) -> ()")
    for key in ("CPU", "CUDA"):
        library.impl("copy_residual", _copy, key)
    torch.library.register_fake("featurewatch::copy_residual", _copy_fake, lib=library)
    _LIBRARY = library


def _copy(residual: torch.Tensor, buffer: torch.Tensor, fired: torch.Tensor) -> None:
    """Copies rows [n, d], or [1, n, d] as vLLM's Transformers backend has them, to the buffer's first rows and counts
    the call. Never an error, because a forward pass must not fail: rows beyond the buffer are left out, and a tensor
    of another shape is not copied nor counted, so that the hook point is known to be silent."""
    if residual.dim() == 3 and residual.shape[0] == 1:
        residual = residual[0]
    if residual.shape[1:] != buffer.shape[1:]:
        return
    n = min(residual.shape[0], buffer.shape[0])
    buffer[:n].copy_(residual[:n])
    fired.add_(1)


def _copy_fake(residual: torch.Tensor, buffer: torch.Tensor, fired: torch.Tensor) -> None:
    """Shapes only; there is no result."""
