"""Which tokens are content and which belong to the chat template, from token ids alone.

A small state machine over the markers of the common chat formats: ChatML (``<|im_start|>role ... <|im_end|>``),
Gemma (``<start_of_turn>role``), Llama 3 (``<|start_header_id|>role<|end_header_id|>``), Harmony
(``<|start|>role<|message|>``), Phi and Zephyr (``<|user|>``), Mistral (``[SYSTEM_PROMPT]``).

Text can hold markers too: whoever may write special tokens into a message can open a turn. Two limits keep that from
hiding much: a header without its end is content again after `MAX_HEADER_TOKENS`, and only a system turn before
all other turns is classed SYSTEM.
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
    LINE,
    MAX_HEADER_TOKENS,
    NEWLINE,
    OPENER,
    ROLE,
    ROLE_LENGTH,
    SPECIAL,
    SYSTEM_ROLE,
    kinds_and_roles,
)
from monitor.policy.vocabulary import TokenClass

# Where the machine stands: in content; in a header; where a newline still belongs to the template.
_IN_CONTENT, _IN_HEADER, _AT_EDGE = 0, 1, 2
# The state as one integer: place (2 bits), turn is system (1), another turn was opened (1), role so far (4), header tokens.
_CONTENT, _BOS, _SPECIAL = int(TokenClass.CONTENT), int(TokenClass.BOS), int(TokenClass.SPECIAL)
_TEMPLATE, _SYSTEM = int(TokenClass.TEMPLATE), int(TokenClass.SYSTEM)
#: No token continues the word "system" from here.
_OTHER_ROLE = ROLE_LENGTH + 1


@dataclass(frozen=True)
class TokenClasses:
    """Classes of token ids in the templates of one tokenizer.

    Attributes:
        kinds_v: per token id, its part in a template (`token_kinds`).
        roles_vr: per token id and letters of "system" read so far, the letters read after it.
    """

    kinds_v: npt.NDArray[np.uint8]
    roles_vr: npt.NDArray[np.uint8]

    @classmethod
    def from_tokenizer_json(cls, tokenizer: Mapping[str, Any]) -> TokenClasses:
        """Reads a parsed ``tokenizer.json`` of Hugging Face's tokenizers."""
        return cls(*kinds_and_roles(tokenizer))

    @classmethod
    def unknown(cls) -> TokenClasses:
        """For an engine whose tokenizer is not known: all but position 0 is content."""
        return cls(np.zeros(0, np.uint8), np.zeros((0, ROLE_LENGTH + 2), np.uint8))

    def classify(
        self, token_ids_n: npt.NDArray[np.int64], first_position: int, state: int = 0
    ) -> tuple[npt.NDArray[np.uint8], int]:
        """Classes of consecutive tokens of one request.

        Args:
            token_ids_n: token ids; unknown ids are content.
            first_position: position of the first of them in the request.
            state: what the call for the tokens before returned; 0 at the start of a request and after a gap.

        Returns:
            Codes of `TokenClass`, uint8 [n], and the state for the next call.
        """
        ids = np.require(token_ids_n, np.int64, ("C", "W"))
        classes = np.empty(ids.size, np.uint8)
        return classes, int(_classify(ids, first_position, state, self.kinds_v, self.roles_vr, classes))


@kernel
def _classify(ids_n, first_position, state, kinds_v, roles_vr, classes_n):  # type: ignore[no-untyped-def]
    place, system, opened = state & 3, (state >> 2) & 1, (state >> 3) & 1
    role, length = (state >> 4) & 15, state >> 8
    for n in range(ids_n.shape[0]):
        token = ids_n[n]
        kind = kinds_v[token] if 0 <= token < kinds_v.shape[0] else 0
        found = _SPECIAL
        if kind == OPENER:
            place, system, role, length = _IN_HEADER, 0, 0, 0
        elif kind in (ROLE, SYSTEM_ROLE):
            system = 1 if kind == SYSTEM_ROLE and not opened else 0
            opened = opened if system else 1
            place = _AT_EDGE
        elif kind == CLOSER:
            place, system = _AT_EDGE, 0
        elif kind == HEADER_END:
            if place == _IN_HEADER:
                system = 1 if role == ROLE_LENGTH and not opened else 0
                opened = opened if system else 1
            place = _AT_EDGE
        elif kind == SPECIAL:
            place = _IN_HEADER if place == _IN_HEADER else _IN_CONTENT
        elif place == _IN_HEADER and kind in (NEWLINE, LINE):
            system = 1 if role == ROLE_LENGTH and not opened else 0
            opened = opened if system else 1
            place = _IN_CONTENT
            found = _TEMPLATE if kind == NEWLINE else (_SYSTEM if system else _CONTENT)
        elif place == _IN_HEADER and length < MAX_HEADER_TOKENS:
            role = roles_vr[token, role] if 0 <= token < roles_vr.shape[0] else _OTHER_ROLE
            length += 1
            found = _TEMPLATE
        elif place == _AT_EDGE and kind == NEWLINE:
            place = _IN_CONTENT
            found = _TEMPLATE
        else:
            if place == _IN_HEADER:
                opened = 1
            place = _IN_CONTENT
            found = _SYSTEM if system else _CONTENT
        classes_n[n] = _BOS if first_position + n == 0 else found
    return place | system << 2 | opened << 3 | role << 4 | length << 8
