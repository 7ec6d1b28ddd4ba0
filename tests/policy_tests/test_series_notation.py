"""Compact series of scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from monitor.policy_tests.series import MAX_TOKENS, length_of, parse_scores, parse_words, scores_of

LEVELS = {"warn": 1.0, "fire": 2.5, "clear": 0.5}


def scores(text: str) -> list[float]:
    return list(scores_of(parse_scores(text), LEVELS).tolist())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0x3 8x2 0", [0, 0, 0, 8, 8, 0]),
        ("-1.5x2 +2e1 .5", [-1.5, -1.5, 20, 0.5]),
        ("0..4x5", [0, 1, 2, 3, 4]),
        ("4..-4x3 1", [4, 0, -4, 1]),
        ("fire warn-0.25x2 clear+1", [2.5, 0.75, 0.75, 1.5]),
        ("warn..firex4", [1.0, 1.5, 2.0, 2.5]),
    ],
)
def test_what_the_notation_stands_for(text: str, expected: list[float]) -> None:
    np.testing.assert_allclose(scores(text), expected)
    assert length_of(parse_scores(text)) == len(expected)


def test_an_underscore_is_a_token_that_is_not_judged() -> None:
    assert np.isnan(scores("1 _x2 2")).tolist() == [False, True, True, False]


@given(st.lists(st.tuples(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), st.integers(1, 9)), min_size=1, max_size=9))
def test_numbers_with_counts_come_back(items: list[tuple[float, int]]) -> None:
    text = " ".join(f"{number:f}x{count}" for number, count in items)
    assert scores(text) == pytest.approx([number for number, count in items for _ in range(count)])


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("0x", "in 0x: a series is made of numbers"),
        ("0 nan", "in nan: a series is made of numbers"),
        ("0x20 8*3", "in 8*3: a series is made of numbers"),
        ("_..3x4", "in _..3x4: a series is made of numbers"),
        ("fired", "in fired: a series is made of numbers"),
        ("0x0", "in 0x0: a count is at least 1"),
        ("0..5", "in 0..5: a range has at least two tokens"),
        ("1e31", "in 1e31: scores lie between"),
        ("   ", "a series has at least one token"),
        (f"0x{MAX_TOKENS} 1", f"at most {MAX_TOKENS} tokens"),
        ("0x999999999", f"at most {MAX_TOKENS} tokens"),
    ],
)
def test_what_is_refused(text: str, rule: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        parse_scores(text)
    context = caught.value.context
    assert context is not None
    assert rule in str(context["rule"])


def test_words_have_counts_too() -> None:
    assert parse_words("promptx2 response", ("prompt", "response")) == ["prompt", "prompt", "response"]
    with pytest.raises(PydanticCustomError, match="in answer: the series is made of prompt, response"):
        parse_words("promptx2 answer", ("prompt", "response"))
