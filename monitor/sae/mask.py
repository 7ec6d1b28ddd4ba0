"""Comparisons of 64 values at once, as bits of one word: what a compiled loop over single values cannot express.

Float32 values of 0 and more are ordered as their bit patterns are and all others lie below, so that they are compared
as int32. The instructions are LLVM's own, for any processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Ints = npt.NDArray[np.int32]
LANES: Final = 64

if TYPE_CHECKING:

    def reached(bits: Ints, at: int, least: int) -> int:
        """A word whose bit c says whether ``bits[at + c] >= least``."""

    def bit_count(word: int) -> int:
        """How many bits are set."""

    def lowest_bit(word: int) -> int:
        """Place of the lowest bit that is set; `word` is not 0."""

    def without_lowest(word: int) -> int:
        """The word with its lowest bit cleared."""

else:

    @intrinsic
    def reached(typingctx, bits, at, least):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            from llvmlite import ir

            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            lanes = ir.VectorType(ir.IntType(32), LANES)
            pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), lanes.as_pointer())
            loaded = builder.load(pointer)
            loaded.align = 4
            one = builder.insert_element(ir.Constant(lanes, ir.Undefined), arguments[2], ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(lanes, [0] * LANES)
            least_lanes = builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), zeros)
            return builder.bitcast(builder.icmp_signed(">=", loaded, least_lanes), ir.IntType(LANES))

        del typingctx, at, least
        return types.uint64(bits, types.intp, types.int32), generate

    @intrinsic
    def bit_count(typingctx, word):
        del typingctx, word
        return types.int64(types.uint64), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])

    @intrinsic
    def lowest_bit(typingctx, word):
        del typingctx, word
        return types.int64(types.uint64), lambda context, builder, signature, arguments: builder.cttz(
            arguments[0], cgutils.true_bit
        )

    @intrinsic
    def without_lowest(typingctx, word):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del context, signature
            return builder.and_(arguments[0], builder.sub(arguments[0], arguments[0].type(1)))

        del typingctx, word
        return types.uint64(types.uint64), generate
