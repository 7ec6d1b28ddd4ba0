"""Which tokens of a response are the model's reasoning: those in a block between think markers, from token ids alone.

Templates of reasoning models open the block in the prompt, behind the last turn's header. A prompt stays one phase all
the same; what it leaves open is where the response starts. Markers that a user wrote into a message open nothing: the
template's own markers follow them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.policy.jit import kernel
from monitor.policy.token_kinds import (
    CLOSER,
    KIND_BITS,
    OPENER,
    ROLE,
    SPECIAL,
    SYSTEM_ROLE,
    THINK_CLOSE,
    THINK_OPEN,
    TokenKinds,
)
from monitor.policy.vocabulary import Phase

_REASONING, _RESPONSE = int(Phase.REASONING), int(Phase.RESPONSE)


@dataclass(frozen=True)
class ResponsePhases:
    """Tells the phase of each token of a response, for one tokenizer."""

    kinds: TokenKinds

    def __post_init__(self) -> None:
        # Compiles the kernel, so that the first request does not wait for it.
        self.of_response(np.zeros(0, np.int64), 0)

    @cached_property
    def known(self) -> bool:
        """Whether the tokenizer has think markers; without them all of a response is `Phase.RESPONSE`."""
        return bool((self.kinds.kinds_v & THINK_OPEN).any())

    @cached_property
    def moving(self) -> bytes:
        """For each token id 1 where `of_response` may end in another state than it began in, or 0; ids beyond are 0.

        Who has one token at a time finds out sooner so than by a call of the kernel.
        """
        kinds_v = self.kinds.kinds_v
        turns_v = np.isin(kinds_v & KIND_BITS, (OPENER, CLOSER, ROLE, SYSTEM_ROLE))
        return (turns_v | ((kinds_v & (THINK_OPEN | THINK_CLOSE)) > 0)).astype(np.uint8).tobytes()

    def after_prompt(self, token_ids_n: npt.NDArray[np.integer[Any]]) -> int:
        """The state in which the response starts, given the whole prompt or the last part of it: 1 if the last of its
        special tokens, turn markers and think markers opens a block, else 0."""
        kinds_v = self.kinds.kinds_v
        known_n = (token_ids_n >= 0) & (token_ids_n < kinds_v.size)
        kinds_n = kinds_v[token_ids_n[known_n]]
        marks = np.flatnonzero(kinds_n >= SPECIAL)
        return int(marks.size > 0 and bool(kinds_n[marks[-1]] & THINK_OPEN))

    def of_response(self, token_ids_n: npt.NDArray[np.integer[Any]], state: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Phases of consecutive tokens of one response; the same for any cut into calls.

        The markers belong to their block. A turn marker ends a block that was left open.

        Args:
            token_ids_n: token ids; unknown ids are no markers.
            state: what `after_prompt`, or the call for the tokens before, returned.

        Returns:
            Codes of `Phase`, uint8 [n], and the state for the next call.
        """
        ids_n = np.require(token_ids_n, np.int64, ("C", "W"))
        phases_n = np.empty(ids_n.size, np.uint8)
        return phases_n, int(_walk(ids_n, state, self.kinds.kinds_v, phases_n))


@kernel
def _walk(ids_n, state, kinds_v, phases_n):  # type: ignore[no-untyped-def]
    for n in range(ids_n.shape[0]):
        token = ids_n[n]
        code = kinds_v[token] if 0 <= token < kinds_v.shape[0] else 0
        kind = code & KIND_BITS
        if code & THINK_OPEN:
            state = 1
        elif kind in (OPENER, CLOSER, ROLE, SYSTEM_ROLE):
            state = 0
        phases_n[n] = _REASONING if state else _RESPONSE
        if code & THINK_CLOSE:
            state = 0
    return state
