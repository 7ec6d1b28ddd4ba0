"""Which tokens of a response are reasoning, and that it does not depend on how tokens come in."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_samples import tokenizer

from monitor.policy import Phase
from monitor.policy.reasoning import ResponsePhases
from monitor.policy.token_kinds import THINK_MARKERS, TokenKinds
from monitor.policy.tokens import TokenClasses

REASONING, RESPONSE = Phase.REASONING, Phase.RESPONSE
WORDS = ("Hello", "user", "Ċ")
TURNS = ("<|im_start|>", "<|im_end|>")
QWEN = tokenizer(WORDS, TURNS, ["<think>", "</think>"])


def ids(parsed: dict[str, Any], text: str) -> np.ndarray[Any, Any]:
    """Token ids of spellings separated by spaces."""
    known = {**parsed["model"]["vocab"], **{token["content"]: token["id"] for token in parsed["added_tokens"]}}
    return np.array([known[word] for word in text.split()], np.int32)


def phases_of(parsed: dict[str, Any], response: str, prompt: str = "") -> list[Phase]:
    phases = ResponsePhases(TokenKinds.build(parsed))
    codes, _ = phases.of_response(ids(parsed, response), phases.after_prompt(ids(parsed, prompt)))
    return [Phase(code) for code in codes]


def test_a_block_and_its_markers_are_reasoning() -> None:
    assert phases_of(QWEN, "<think> Hello Hello </think> Ċ Hello") == [*[REASONING] * 4, RESPONSE, RESPONSE]
    assert phases_of(QWEN, "Hello </think> Hello") == [RESPONSE] * 3


def test_a_block_that_the_template_opened_starts_the_response_in_reasoning() -> None:
    prompt = "<|im_start|> user Ċ Hello <|im_end|> Ċ <|im_start|> user Ċ"
    opened, empty = f"{prompt} <think> Ċ", f"{prompt} <think> Ċ Ċ </think> Ċ Ċ"
    assert phases_of(QWEN, "Hello </think> Hello", opened) == [REASONING, REASONING, RESPONSE]
    assert phases_of(QWEN, "Hello", f"{opened} Hello Hello") == [REASONING], "a beginning that the client wrote"
    assert phases_of(QWEN, "Hello", empty) == phases_of(QWEN, "Hello", prompt) == [RESPONSE]


def test_a_marker_in_a_message_opens_nothing() -> None:
    assert phases_of(QWEN, "Hello", "<|im_start|> user Ċ <think> Hello <|im_end|> Ċ <|im_start|> user Ċ") == [RESPONSE]
    unknown_turns = tokenizer(WORDS, ["<turn-of-user>", "<turn-of-model>"], ["<think>", "</think>"])
    assert phases_of(unknown_turns, "Hello", "<turn-of-user> <think> <turn-of-model>") == [RESPONSE]


def test_a_turn_marker_ends_a_block_that_was_left_open() -> None:
    assert phases_of(QWEN, "<think> Hello <|im_end|> Hello") == [REASONING, REASONING, RESPONSE, RESPONSE]


@pytest.mark.parametrize(("opening", "closing"), THINK_MARKERS.items())
@pytest.mark.parametrize("special", [True, False])
def test_spellings(opening: str, closing: str, special: bool) -> None:
    markers = [opening, closing]
    parsed = tokenizer(WORDS, markers if special else [], [] if special else markers)
    assert ResponsePhases(TokenKinds.build(parsed)).known
    assert phases_of(parsed, f"Hello {opening} Hello {closing} Hello") == [RESPONSE, *[REASONING] * 3, RESPONSE]


@pytest.mark.parametrize("markers", [[], ["<think>"], ["</think>"], ["<think>", "</thinking>"]])
def test_without_a_pair_of_markers_there_is_no_reasoning(markers: list[str]) -> None:
    parsed = tokenizer(WORDS, TURNS, markers)
    assert not ResponsePhases(TokenKinds.build(parsed)).known
    text = " ".join(["Hello", *markers, "Hello"])
    assert set(phases_of(parsed, text, text)) == {RESPONSE}


@pytest.mark.parametrize("special", [True, False])
def test_token_classes_are_those_of_a_vocabulary_that_knows_no_reasoning(special: bool) -> None:
    """A marker that is special stays so, and a plain one is content."""
    classes = []
    for opening, closing in (("<think>", "</think>"), ("<other>", "</other>")):
        markers = (opening, closing)
        parsed = tokenizer(WORDS, [*TURNS, *markers] if special else TURNS, () if special else markers)
        text = f"<|im_start|> user Ċ {opening} Ċ Hello {closing} Ċ Hello <|im_end|>"
        classes.append(TokenClasses.from_tokenizer_json(parsed).classify(ids(parsed, text), 1)[0].tolist())
    assert classes[0] == classes[1]


@given(
    st.lists(st.integers(-1, len(WORDS) + len(TURNS) + 2), max_size=40),
    st.lists(st.integers(0, 40), max_size=5),
    st.integers(0, 1),
)
def test_any_cut_into_calls_gives_the_same(tokens: list[int], cuts: list[int], start: int) -> None:
    phases = ResponsePhases(TokenKinds.build(QWEN))
    whole, end_state = phases.of_response(np.array(tokens, np.int64), start)
    for edges in (sorted({0, len(tokens), *(cut for cut in cuts if cut < len(tokens))}), list(range(len(tokens) + 1))):
        parts, state = [np.zeros(0, np.uint8)], start
        for first, last in itertools.pairwise(edges):
            part, state = phases.of_response(np.array(tokens[first:last], np.int32), state)
            parts.append(part)
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert state == end_state
    assert end_state in (0, 1)


@given(st.lists(st.integers(-1, len(WORDS) + len(TURNS) + 2), max_size=40), st.integers(0, 40))
def test_the_end_of_a_prompt_is_enough_if_it_holds_the_last_marker(tokens: list[int], first: int) -> None:
    phases = ResponsePhases(TokenKinds.build(QWEN))
    marked = [at for at, token in enumerate(tokens) if len(WORDS) <= token < len(WORDS) + len(TURNS) + 2]
    tail = tokens[min(first, marked[-1] if marked else first) :]
    assert phases.after_prompt(np.array(tail, np.int64)) == phases.after_prompt(np.array(tokens, np.int64))
