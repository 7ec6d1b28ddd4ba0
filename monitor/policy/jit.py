"""Compilation of kernels with numba."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

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


def part(function: Callable[..., Any]) -> Any:
    """Compiles `function` into each kernel that calls it: a call would pass every array as seven numbers. Division by
    zero gives an infinity, as in numpy. In inner loops give it arrays, no tuples of them: what it unpacks may be
    counted as references, at many times the cost of the rest."""
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """``prefetch(array, index)``: asks for the cache line of an entry of a contiguous one-dimensional array, to be
    written soon. Changes nothing but the time that it takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        # For writing, to be kept close, data.
        hints = [ir.Constant(number, hint) for hint in (1, 3, 1)]
        builder.call(function, [builder.bitcast(builder.gep(data, [arguments[1]]), pointer), *hints])
        return context.get_dummy_value()

    return types.void(array, index), generate
