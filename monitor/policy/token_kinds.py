"""What each token of a vocabulary is to a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# Kinds; 0 is ordinary text.
NEWLINE = 1  # white space that begins with a newline
LINE = 2  # a newline followed by text
SPECIAL = 3
OPENER = 4  # a turn begins, role words follow
HEADER_END = 5  # the role words end
CLOSER = 6  # the turn ends
ROLE = 7  # a turn begins, the marker itself names the role
SYSTEM_ROLE = 8  # the same, and the role is system

#: Tokens after an opener that may be role words. Markers may be written by users: this bounds what a header can hide.
MAX_HEADER_TOKENS = 16

_MARKERS = {
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
_ROLE = "system"
ROLE_LENGTH = len(_ROLE)
_OTHER = ROLE_LENGTH + 1
# How vocabularies write white space: byte-level BPE, SentencePiece, SentencePiece's byte fallback.
_SPELLINGS = {"Ċ": "\n", "č": "\r", "Ġ": " ", "ĉ": "\t", "▁": " ", "<0x0A>": "\n", "<0x0D>": "\r", "<0x20>": " "}


def kinds_and_roles(tokenizer: Mapping[str, Any]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Tables over token ids from a parsed ``tokenizer.json``.

    Returns:
        Kinds, uint8 [v]; and uint8 [v, r]: for each token and number of letters of "system" read so far, the number
        read after it (one more than the word is long: another role).
    """
    vocabulary = _vocabulary(tokenizer)
    added = {
        int(token["id"]): str(token["content"])
        for token in tokenizer.get("added_tokens") or ()
        if token.get("special") or token.get("content") in _MARKERS
    }
    size = 1 + max([*vocabulary.values(), *added], default=-1)
    kinds = np.zeros(size, np.uint8)
    roles = np.full((size, ROLE_LENGTH + 2), _OTHER, np.uint8)
    for spelling, index in vocabulary.items():
        text = _text(spelling)
        if text.startswith(("\n", "\r\n")):
            kinds[index] = NEWLINE if text.isspace() else LINE
        word = text.strip()
        if word and word in _ROLE:
            for read in range(ROLE_LENGTH):
                if _ROLE.startswith(word, read):
                    roles[index, read] = read + len(word)
        elif not word:
            # White space around a role word is no part of it.
            roles[index] = np.arange(ROLE_LENGTH + 2)
    for index, content in added.items():
        kinds[index] = _MARKERS.get(content, SPECIAL)
    return kinds, roles


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


def _text(spelling: str) -> str:
    if spelling in _SPELLINGS:
        return _SPELLINGS[spelling]
    return "".join(_SPELLINGS.get(character, character) for character in spelling)
