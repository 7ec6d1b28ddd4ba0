"""Which phase each position of a request is in, told once and in any cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitor.policy import Phase, ResponsePhases, TokenClasses
from monitor.sidecar.phases import PhaseBook

_WORDS = ("a", "b", "<think>", "</think>", "<|im_end|>")
_TOKENIZER = {
    "model": {"vocab": {word: index for index, word in enumerate(_WORDS)}},
    "added_tokens": [{"id": index, "content": _WORDS[index], "special": True} for index in (2, 3, 4)],
}
PHASES = ResponsePhases(TokenClasses.from_tokenizer_json(_TOKENIZER).kinds)
NONE = ResponsePhases(TokenClasses.unknown().kinds)
TOKENS = st.lists(st.integers(0, 4), max_size=30)
PROMPT, REASONING, RESPONSE = (int(phase) for phase in (Phase.PROMPT, Phase.REASONING, Phase.RESPONSE))


def as_list(codes: np.ndarray | int, count: int) -> list[int]:
    return np.broadcast_to(np.asarray(codes), count).tolist()


@given(TOKENS, TOKENS, st.data())
def test_any_cut_gives_the_same_phases_and_they_stay_known(
    prompt: list[int], response: list[int], data: st.DataObject
) -> None:
    state = PHASES.after_prompt(np.array(prompt, np.int32))
    whole, _ = PHASES.of_response(np.array(response, np.int32), state)
    expected = [PROMPT] * len(prompt) + whole.tolist()
    book, told, tokens, first = PhaseBook(len(prompt), state), list[int](), prompt + response, 0
    while first < len(tokens):
        count = data.draw(st.integers(1, len(tokens) - first))
        told += as_list(book.take(PHASES, first, np.array(tokens[first : first + count], np.int32)), count)
        first += count
    assert told == expected
    first = data.draw(st.integers(0, len(tokens)))
    assert book.of(first, len(tokens) - first).tolist() == expected[first:]
    assert [int(book.at(position)) for position in range(len(tokens))] == expected
    assert book.guessed_from is None


@given(st.integers(0, 5), st.integers(1, 9))
def test_without_think_markers_all_of_a_response_is_response(prompt: int, response: int) -> None:
    book, total = PhaseBook(prompt, 0), prompt + response
    expected = [PROMPT] * prompt + [RESPONSE] * response
    assert as_list(book.take(NONE, 0, np.full(total, 2, np.int32)), total) == expected
    assert book.of(0, total).tolist() == expected


def test_a_token_that_was_not_seen_is_no_marker_and_what_follows_is_known_to_be_guessed() -> None:
    book = PhaseBook(2, 0)
    book.take(PHASES, 0, np.array([0, 0, 2, 0], np.int32))
    assert as_list(book.take(PHASES, 6, np.array([0, 3, 0], np.int32)), 3) == [REASONING, REASONING, RESPONSE]
    assert book.guessed_from == 6
    book.take(PHASES, 12, np.array([0], np.int32))
    assert book.guessed_from == 6
    assert book.of(2, 11).tolist() == [REASONING] * 6 + [RESPONSE] * 5
