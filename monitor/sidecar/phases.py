"""The phase of each position of one request: its prompt, then a response with blocks of reasoning in it."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monitor.policy import Phase, ResponsePhases


@dataclass(slots=True)
class PhaseBook:
    """Told the response's tokens once and in order, it knows the phase of every position afterwards.

    A turn is a position at which reasoning begins or ends; that, and the state behind the last token, is all that is
    kept. Tokens that were never seen are no markers: whoever misses one goes on in the phase before it.

    Attributes:
        prompt_tokens: positions of the prompt.
        state: of `ResponsePhases`, behind the last token taken.
        next_position: behind the last token taken.
        guessed_from: the first position of the response before which a token is not known; None where all are.
    """

    prompt_tokens: int
    state: int
    next_position: int = 0
    guessed_from: int | None = None
    _turns: array[int] = field(default_factory=lambda: array("q"))

    def __post_init__(self) -> None:
        self.next_position = self.prompt_tokens

    def take(
        self, phases: ResponsePhases, first: int, token_ids_n: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint8] | int:
        """Codes of `Phase` of tokens from position `first` on, which lie behind all that were taken before; one code
        where it is the same for all of them."""
        end = first + len(token_ids_n)
        if end <= self.prompt_tokens:
            return int(Phase.PROMPT)
        cut = max(self.prompt_tokens - first, 0)
        if not phases.known:
            self.next_position = end
            return self.of(first, len(token_ids_n)) if cut else int(Phase.RESPONSE)
        if first > self.next_position and self.guessed_from is None:
            self.guessed_from = first
        if end == first + 1 and not _moves(phases, int(token_ids_n[0])):
            self.next_position = end
            return int(self._go_on(first))
        response_n, self.state = phases.of_response(token_ids_n[cut:], self.state)
        self._note(first + cut, response_n)
        self.next_position = end
        return np.concatenate([np.full(cut, Phase.PROMPT, np.uint8), response_n]) if cut else response_n

    def of(self, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Codes of `Phase` of positions from `first` on; those behind the last token taken are as that one was."""
        phases_n = np.full(count, Phase.RESPONSE, np.uint8)
        for index in range(0, len(self._turns), 2):
            begin = max(self._turns[index] - first, 0)
            end = self._turns[index + 1] - first if index + 1 < len(self._turns) else count
            phases_n[begin : max(end, 0)] = Phase.REASONING
        phases_n[: max(self.prompt_tokens - first, 0)] = Phase.PROMPT
        return phases_n

    def at(self, position: int) -> Phase:
        """The phase of one position."""
        if position < self.prompt_tokens:
            return Phase.PROMPT
        return Phase.REASONING if bisect_right(self._turns, position) % 2 else Phase.RESPONSE

    def _go_on(self, position: int) -> Phase:
        """A token that opens and closes nothing."""
        phase = Phase.REASONING if self.state else Phase.RESPONSE
        if (phase is Phase.REASONING) != (len(self._turns) % 2 == 1):
            self._turns.append(position)
        return phase

    def _note(self, first: int, response_n: npt.NDArray[np.uint8]) -> None:
        before = Phase.REASONING if len(self._turns) % 2 == 1 else Phase.RESPONSE
        changes = np.flatnonzero(np.diff(response_n, prepend=np.uint8(before)))
        self._turns.extend((first + changes).tolist())


def _moves(phases: ResponsePhases, token: int) -> bool:
    return 0 <= token < len(phases.moving) and phases.moving[token] == 1
