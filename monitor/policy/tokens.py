"""Which tokens are content and which belong to the chat template, from token ids alone.

A small state machine over the markers of the common chat formats: ChatML (``<|im_start|>role ... <|im_end|>``),
Gemma (``<start_of_turn>role``), Llama 3 (``<|start_header_id|>role<|end_header_id|>``), Harmony
(``<|start|>role<|message|>``), Phi and Zephyr (``<|user|>``), Mistral (``[SYSTEM_PROMPT]``).

Whoever may write special tokens into a message can open turns. So that nothing can be hidden by that, only known role
words count as a header, and only a system turn that comes before all other turns is classed SYSTEM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.policy.jit import kernel
from monitor.policy.token_kinds import (
    CLOSER,
    HEADER_END,
    KIND_BITS,
    LINE,
    NEWLINE,
    NO_WORD,
    OPENER,
    ROLE,
    SPECIAL,
    SYSTEM_ROLE,
    SYSTEM_WORD,
    TokenKinds,
)
from monitor.policy.vocabulary import TokenClass

# Where the machine stands: in content; in a header; right after a header or a turn, where a newline is template.
_IN_CONTENT, _IN_HEADER, _AT_EDGE = 0, 1, 2
_CONTENT, _BOS, _SPECIAL = int(TokenClass.CONTENT), int(TokenClass.BOS), int(TokenClass.SPECIAL)
_TEMPLATE, _SYSTEM = int(TokenClass.TEMPLATE), int(TokenClass.SYSTEM)


@dataclass(frozen=True)
class TokenClasses:
    """Tells the class of each token of a request, for one tokenizer."""

    kinds: TokenKinds

    def __post_init__(self) -> None:
        # Compiles the kernel, so that the first request does not wait for it.
        self.classify(np.zeros(0, np.int64), 0)

    @classmethod
    def from_tokenizer_json(cls, tokenizer: Mapping[str, Any]) -> TokenClasses:
        """Reads a parsed ``tokenizer.json`` of Hugging Face's tokenizers."""
        return cls(TokenKinds.build(tokenizer))

    @classmethod
    def unknown(cls) -> TokenClasses:
        """For an engine whose tokenizer is not known: all but position 0 is content."""
        return cls(TokenKinds.build({}))

    def classify(
        self, token_ids_n: npt.NDArray[np.integer[Any]], first_position: int, state: int = 0
    ) -> tuple[npt.NDArray[np.uint8], int]:
        """Classes of consecutive tokens of one request; the same for any cut into calls.

        Args:
            token_ids_n: token ids; unknown ids are content.
            first_position: position of the first of them in the request.
            state: what the call for the tokens before returned; 0 at the start of a request.

        Returns:
            Codes of `TokenClass`, uint8 [n], and the state for the next call.
        """
        ids_n = np.ascontiguousarray(token_ids_n, np.int64)
        if not ids_n.flags.writeable:
            # Another type to numba, which would start a compilation.
            ids_n = ids_n.copy()
        classes_n = np.empty(ids_n.size, np.uint8)
        kinds = self.kinds
        after = _classify(ids_n, first_position, state, (kinds.kinds_v, kinds.pieces_v, kinds.walk_pb), classes_n)
        return classes_n, int(after)


@kernel
def _classify(ids_n, first_position, state, tables, classes_n):  # type: ignore[no-untyped-def]
    kinds_v, pieces_v, walk_pb = tables
    # The state in one integer: place (2 bits), system turn (1), another turn was opened (1), header word so far.
    place, system, opened, word = state & 3, (state >> 2) & 1, (state >> 3) & 1, state >> 4
    for n in range(ids_n.shape[0]):
        token = ids_n[n]
        known = 0 <= token < kinds_v.shape[0]
        kind = kinds_v[token] & KIND_BITS if known else 0
        step = walk_pb[pieces_v[token], word] if known and place == _IN_HEADER else NO_WORD
        found = _SPECIAL
        if kind == OPENER:
            place, system, word = _IN_HEADER, 0, 0
        elif kind == CLOSER:
            place, system = _AT_EDGE, 0
        elif kind in (ROLE, SYSTEM_ROLE, HEADER_END):
            if kind != HEADER_END or place == _IN_HEADER:
                named_system = kind == SYSTEM_ROLE or (kind == HEADER_END and word == SYSTEM_WORD)
                system = 1 if named_system and not opened else 0
                opened = 1 - system if not opened else 1
            place = _AT_EDGE
        elif kind == SPECIAL:
            # Harmony writes markers inside its header; a word begins anew after them.
            place, word = (_IN_HEADER, 0) if place == _IN_HEADER else (_IN_CONTENT, 0)
        elif place == _IN_HEADER and kind not in (NEWLINE, LINE) and step != NO_WORD:
            word = step
            found = _TEMPLATE
        else:
            if place == _IN_HEADER:
                ended = kind in (NEWLINE, LINE)
                system = 1 if ended and word == SYSTEM_WORD and not opened else 0
                opened = 1 - system if not opened else 1
            content = _SYSTEM if system else _CONTENT
            found = _TEMPLATE if kind == NEWLINE and place != _IN_CONTENT else content
            place = _IN_CONTENT
        classes_n[n] = _BOS if first_position + n == 0 else found
    return place | system << 2 | opened << 3 | word << 4
