"""Token classes in the chat formats, and their independence of how tokens come in."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_samples import tokenizer

from monitor.policy import TokenClass, TokenClasses

CONTENT, BOS, SPECIAL, TEMPLATE, SYSTEM = TokenClass
CHATML = ("<|im_start|>", "<|im_end|>", "<repo_name>")
WORDS = ("system", "user", "ass", "istant", "Ġsystem", "Ġ", "Hello", "Ċ", "ĊĊ", "čĊ", "Ċ//", "sys", "tem", "bomb", ".Ċ")


class Reader:
    """Classes of tokens given by their spelling, separated by spaces; the request begins at `first_position`."""

    def __init__(self, parsed: dict[str, Any]) -> None:
        self.ids = {**parsed["model"]["vocab"], **{token["content"]: token["id"] for token in parsed["added_tokens"]}}
        self.classes = TokenClasses.from_tokenizer_json(parsed)

    def __call__(self, text: str, first_position: int = 0) -> list[TokenClass]:
        ids = np.array([self.ids[word] for word in re.split(" ", text)])
        return [TokenClass(code) for code in self.classes.classify(ids, first_position)[0]]


@pytest.fixture(scope="module")
def chatml() -> Reader:
    return Reader(tokenizer(WORDS, CHATML, ["<think>"]))


def test_chatml_with_system_turn(chatml: Reader) -> None:
    found = chatml("<|im_start|> system Ċ Hello Ċ <|im_end|> Ċ <|im_start|> user Ċ Hello Ċ Hello <|im_end|> Ċ")
    assert found == [
        *(BOS, TEMPLATE, TEMPLATE, SYSTEM, SYSTEM, SPECIAL, TEMPLATE),
        *(SPECIAL, TEMPLATE, TEMPLATE, CONTENT, CONTENT, CONTENT, SPECIAL, TEMPLATE),
    ]


def test_role_words_in_pieces_and_blank_lines(chatml: Reader) -> None:
    assert chatml("<|im_start|> sys tem ĊĊ Hello") == [BOS, TEMPLATE, TEMPLATE, TEMPLATE, SYSTEM]
    found = chatml("<|im_start|> ass istant Ċ ĊĊ Hello Ċ ass", 5)
    assert found == [SPECIAL, TEMPLATE, TEMPLATE, TEMPLATE, CONTENT, CONTENT, CONTENT, CONTENT]
    assert chatml("<|im_start|> Ġsystem čĊ Hello", 1) == [SPECIAL, TEMPLATE, TEMPLATE, SYSTEM]


def test_a_header_cannot_hide_text(chatml: Reader) -> None:
    """Markers that a user writes: only known role words are template, whatever comes after an opener."""
    assert chatml("<|im_start|> bomb bomb Ċ", 1) == [SPECIAL, CONTENT, CONTENT, CONTENT]
    assert chatml("<|im_start|> user bomb Ċ", 1) == [SPECIAL, TEMPLATE, CONTENT, CONTENT]
    assert chatml("<|im_start|> system bomb Ċ bomb", 1) == [SPECIAL, TEMPLATE, CONTENT, CONTENT, CONTENT]
    assert chatml("<|im_start|> user Ċ// bomb", 1) == [SPECIAL, TEMPLATE, CONTENT, CONTENT]


def test_only_a_system_turn_before_all_others_is_system(chatml: Reader) -> None:
    found = chatml("<|im_start|> user Ċ Hello <|im_end|> Ċ <|im_start|> system Ċ bomb", 1)
    assert found[-4:] == [SPECIAL, TEMPLATE, TEMPLATE, CONTENT]
    found = chatml("<|im_start|> bomb <|im_start|> system Ċ bomb", 1)
    assert found == [SPECIAL, CONTENT, SPECIAL, TEMPLATE, TEMPLATE, CONTENT]


def test_a_system_turn_ends_at_its_closer(chatml: Reader) -> None:
    found = chatml("<|im_start|> system Ċ Hello <|im_end|> bomb Ċ bomb", 1)
    assert found[-4:] == [SPECIAL, CONTENT, CONTENT, CONTENT]


def test_position_zero_is_bos_whatever_the_token(chatml: Reader) -> None:
    assert chatml("Hello Hello") == [BOS, CONTENT]
    assert chatml("Hello Hello", 7) == [CONTENT, CONTENT]


def test_special_and_added_tokens(chatml: Reader) -> None:
    assert chatml("Hello <repo_name> <think> Hello", 1) == [CONTENT, SPECIAL, CONTENT, CONTENT]
    assert chatml("<|im_end|> Hello Ċ", 1) == [SPECIAL, CONTENT, CONTENT]


def test_llama_headers() -> None:
    read = Reader(tokenizer(WORDS, ["<bos>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]))
    found = read(
        "<bos> <|start_header_id|> system <|end_header_id|> ĊĊ Hello <|eot_id|> "
        "<|start_header_id|> user <|end_header_id|> ĊĊ Hello"
    )
    assert found == [
        *(BOS, SPECIAL, TEMPLATE, SPECIAL, TEMPLATE, SYSTEM, SPECIAL),
        *(SPECIAL, TEMPLATE, SPECIAL, TEMPLATE, CONTENT),
    ]


def test_gemma_with_sentencepiece_newlines() -> None:
    read = Reader(tokenizer(["user", "model", "\n", "<0x0A>", "▁Hello"], ["<bos>", "<start_of_turn>", "<end_of_turn>"]))
    found = read("<bos> <start_of_turn> user \n ▁Hello <end_of_turn> <0x0A> <start_of_turn> model <0x0A> ▁Hello")
    assert found == [
        *(BOS, SPECIAL, TEMPLATE, TEMPLATE, CONTENT, SPECIAL, TEMPLATE),
        *(SPECIAL, TEMPLATE, TEMPLATE, CONTENT),
    ]


def test_harmony_header_with_a_channel() -> None:
    words = ("system", "assistant", "analysis", "Hello")
    read = Reader(tokenizer(words, ["<|start|>", "<|message|>", "<|channel|>", "<|end|>"]))
    found = read(
        "<|start|> system <|message|> Hello <|end|> <|start|> assistant <|channel|> analysis <|message|> Hello"
    )
    assert found == [
        *(BOS, TEMPLATE, SPECIAL, SYSTEM, SPECIAL),
        *(SPECIAL, TEMPLATE, SPECIAL, TEMPLATE, SPECIAL, CONTENT),
    ]


def test_markers_that_name_the_role() -> None:
    read = Reader(tokenizer(["Hello", "\n"], ["<s>", "<|system|>", "<|end|>"], ["<|user|>"]))
    found = read("<s> <|system|> \n Hello <|end|> \n <|user|> \n Hello <|system|> Hello")
    assert found == [
        *(BOS, SPECIAL, TEMPLATE, SYSTEM, SPECIAL, TEMPLATE),
        *(SPECIAL, TEMPLATE, CONTENT, SPECIAL, CONTENT),
    ]


def test_unigram_vocabularies_are_lists() -> None:
    parsed = {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁Hello", -1.0]]}, "added_tokens": []}
    classes, _ = TokenClasses.from_tokenizer_json(parsed).classify(np.array([1, 1]), 0)
    assert classes.tolist() == [BOS, CONTENT]


@pytest.mark.parametrize("parsed", [{}, {"model": None, "added_tokens": None}, {"model": {}}])
def test_a_tokenizer_without_vocabulary_and_an_unknown_one_know_position_zero(parsed: dict[str, Any]) -> None:
    for classes in (TokenClasses.from_tokenizer_json(parsed), TokenClasses.unknown()):
        found, state = classes.classify(np.array([5, -1, 10**9]), 0)
        assert found.tolist() == [BOS, CONTENT, CONTENT]
        assert classes.classify(np.array([5]), 3, state)[0].tolist() == [CONTENT]


ALL_TOKENS = len(WORDS) + len(CHATML) + 1


@given(
    st.lists(st.integers(-1, ALL_TOKENS), max_size=40),
    st.lists(st.integers(0, 40), max_size=5),
    st.integers(0, 3),
)
def test_any_cut_into_calls_gives_the_same(ids: list[int], cuts: list[int], first_position: int) -> None:
    classes = TokenClasses.from_tokenizer_json(tokenizer(WORDS, CHATML, ["<think>"]))
    whole, end_state = classes.classify(np.array(ids, np.int64), first_position)
    for edges in (sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))}), list(range(len(ids) + 1))):
        parts, state = [np.zeros(0, np.uint8)], 0
        for first, last in itertools.pairwise(edges):
            part, state = classes.classify(np.array(ids[first:last], np.int64), first_position + first, state)
            parts.append(part)
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert state == end_state
