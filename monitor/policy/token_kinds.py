"""What each token of a vocabulary is to a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Kinds of tokens; 0 is ordinary text.
NEWLINE = 1  # white space that begins with a newline
LINE = 2  # a newline followed by text
SPECIAL = 3
OPENER = 4  # a turn begins, role words follow
HEADER_END = 5  # the role words end
CLOSER = 6  # the turn ends
ROLE = 7  # a turn begins, the marker itself names the role
SYSTEM_ROLE = 8  # the same, and the role is system
KIND_BITS = 15
# Added to the kind.
THINK_OPEN = 16
THINK_CLOSE = 32

#: Tokens that open a block of reasoning, with those that close it.
THINK_MARKERS = {
    "<think>": "</think>",  # Qwen, DeepSeek-R1, GLM, Kimi, Phi and others
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "[THINK]": "[/THINK]",  # Magistral
    "<seed:think>": "</seed:think>",
    "<mm:think>": "</mm:think>",
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
    "<|THINK_START|>": "<|THINK_END|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
}

MARKERS = {
    "<|im_start|>": OPENER,
    "<start_of_turn>": OPENER,
    "<|start_header_id|>": OPENER,
    "<|start|>": OPENER,
    "<|end_header_id|>": HEADER_END,
    "<|message|>": HEADER_END,
    "<|im_end|>": CLOSER,
    "<end_of_turn>": CLOSER,
    "<|eot_id|>": CLOSER,
    "<|eom_id|>": CLOSER,
    "<|end|>": CLOSER,
    "<|return|>": CLOSER,
    "<|call|>": CLOSER,
    "[/SYSTEM_PROMPT]": CLOSER,
    "[/INST]": CLOSER,
    "<|user|>": ROLE,
    "<|assistant|>": ROLE,
    "[INST]": ROLE,
    "<|system|>": SYSTEM_ROLE,
    "[SYSTEM_PROMPT]": SYSTEM_ROLE,
}

_SYSTEM = "system"
#: The words that a turn header may hold. Anything else after an opener is content: markers can be written by users,
#: and a header must not hide their text.
_HEADER_WORDS = (
    *(_SYSTEM, "user", "assistant", "model", "tool", "developer", "function", "ipython", "environment"),
    *("analysis", "commentary", "final"),  # Harmony's channels
)
#: Every beginning of a header word, the empty one first; a header is read by walking along them.
_BEGINNINGS = tuple(
    dict.fromkeys(word[:length] for length in range(1 + max(map(len, _HEADER_WORDS))) for word in _HEADER_WORDS)
)
#: Everything that can be a token within such a word.
_PIECES = frozenset(beginning[first:] for beginning in _BEGINNINGS for first in range(1 + len(beginning)))
#: Index of the finished word "system", and the mark for "no header word goes on like this".
SYSTEM_WORD = _BEGINNINGS.index(_SYSTEM)
NO_WORD = 255

# How vocabularies write white space: byte-level BPE, SentencePiece, SentencePiece's byte fallback.
_SPELLINGS = {"Ċ": "\n", "č": "\r", "Ġ": " ", "ĉ": "\t", "▁": " ", "<0x0A>": "\n", "<0x0D>": "\r", "<0x20>": " "}


@dataclass(frozen=True)
class TokenKinds:
    """Tables over the token ids v of one vocabulary.

    Attributes:
        kinds_v: kind of each token (`KIND_BITS`), with THINK_OPEN or THINK_CLOSE where it is such a marker.
        pieces_v: row of each token in `walk_pb`; row 0 is for tokens that are no part of a header word.
        walk_pb: for a token and the beginning read so far, the beginning after it, or NO_WORD.
    """

    kinds_v: npt.NDArray[np.uint8]
    pieces_v: npt.NDArray[np.uint16]
    walk_pb: npt.NDArray[np.uint8]

    @classmethod
    def build(cls, tokenizer: Mapping[str, Any]) -> TokenKinds:
        """Reads a parsed ``tokenizer.json``; a token that it does not list is text."""
        vocabulary, added = _vocabulary(tokenizer), _added(tokenizer)
        size = 1 + max([*vocabulary.values(), *added], default=-1)
        kinds, pieces = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
        walk: list[list[int]] = [[NO_WORD] * len(_BEGINNINGS)]
        rows: dict[str, int] = {}
        for spelling, index in vocabulary.items():
            text = _text(spelling)
            if text.startswith(("\n", "\r\n")):
                kinds[index] = NEWLINE if text.isspace() else LINE
            # White space around a role word is no part of it.
            piece = text.strip()
            if piece in _PIECES:
                if piece not in rows:
                    rows[piece] = len(walk)
                    walk.append([_after(beginning, piece) for beginning in _BEGINNINGS])
                pieces[index] = rows[piece]
        for index, content in added.items():
            kinds[index], pieces[index] = MARKERS.get(content, SPECIAL), 0
        for index, bit in _think_markers(vocabulary).items():
            kinds[index] |= bit
        return cls(kinds, pieces, np.array(walk, np.uint8))


def _think_markers(vocabulary: Mapping[str, int]) -> dict[int, int]:
    """Only pairs of which both are tokens: a block that nothing can close is no block."""
    found: dict[int, int] = {}
    for opening, closing in THINK_MARKERS.items():
        if opening in vocabulary and closing in vocabulary:
            found |= {vocabulary[opening]: THINK_OPEN, vocabulary[closing]: THINK_CLOSE}
    return found


def _after(beginning: str, piece: str) -> int:
    longer = beginning + piece
    return _BEGINNINGS.index(longer) if longer in _BEGINNINGS else NO_WORD


def _vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Token spellings and ids; BPE and WordPiece store a mapping, Unigram a list of pairs."""
    stored = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(stored, Mapping):
        vocabulary = {str(spelling): int(index) for spelling, index in stored.items()}
    else:
        vocabulary = {str(entry[0]): index for index, entry in enumerate(stored)}
    for token in tokenizer.get("added_tokens") or ():
        vocabulary.setdefault(str(token["content"]), int(token["id"]))
    return vocabulary


def _added(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Special tokens, and turn markers whether they are flagged special or not."""
    tokens = tokenizer.get("added_tokens") or ()
    return {int(t["id"]): str(t["content"]) for t in tokens if t.get("special") or t["content"] in MARKERS}


def _text(spelling: str) -> str:
    if spelling in _SPELLINGS:
        return _SPELLINGS[spelling]
    return "".join(_SPELLINGS.get(character, character) for character in spelling)
