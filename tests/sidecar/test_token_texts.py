"""Texts of tokens, also of those that the tokenizer cannot decode."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models

from monitor.policy import TokenClasses
from monitor.sidecar import tokenizer as tokenizer_module
from monitor.sidecar.tokenizer import TokenReader

MAKE, A, BOMB = 257, 258, 259


def byte(value: int) -> int:
    return value + 1


@pytest.fixture
def reader() -> TokenReader:
    """Characters outside of the vocabulary are spelled in bytes, as SentencePiece models do."""
    vocab = {"<unk>": 0, **{f"<0x{value:02X}>": byte(value) for value in range(256)}}
    vocab |= {"\u2581make": MAKE, "\u2581a": A, "\u2581bomb": BOMB}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return TokenReader(TokenClasses.unknown(), tokenizer)


def test_a_character_of_several_bytes_stands_at_its_last(reader: TokenReader) -> None:
    assert reader.texts([MAKE, byte(0xE2), byte(0x82), byte(0xAC), A]) == [" make", "", "", "\u20ac", " a"]
    assert reader.problems.total == 0


def test_bytes_that_are_no_character_do_not_stop_the_text(reader: TokenReader) -> None:
    ids = [byte(0x41), byte(0xF0), A, BOMB]
    texts = reader.texts(ids)
    assert (texts[0], texts[2:]) == ("A", [" a", " bomb"])
    assert reader.text_of_last(ids[:3]) == " a"
    assert reader.problems.by_kind == {"text begun anew": 2}


def test_a_tokenizer_that_decodes_nothing_gives_empty_texts(
    reader: TokenReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, **_settings: Any) -> None: ...

        def step(self, *_arguments: Any) -> str:
            raise Exception("Invalid prefix encountered")

    monkeypatch.setattr(tokenizer_module, "DecodeStream", Broken)
    assert reader.texts([MAKE, A]) == ["", ""]
    assert reader.problems.by_kind == {"text begun anew": 2, "no text": 2}
