"""Small tokenizers that the tests of this room share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def tokenizer(words: Iterable[str], added: Iterable[str], plain: Iterable[str] = ()) -> dict[str, Any]:
    """A tokenizer.json with these tokens; `added` are special, `plain` are added and not special."""
    vocab = {word: index for index, word in enumerate(words)}
    tokens = [{"content": text, "special": text in added} for text in (*added, *plain)]
    for index, token in enumerate(tokens, start=len(vocab)):
        token["id"] = index
    return {"model": {"type": "BPE", "vocab": vocab}, "added_tokens": tokens}
