"""Every position of a request is reported exactly once, whatever the engine does with it."""

from __future__ import annotations

import numpy as np

from monitor.rpc import ints_from_bytes
from monitor.tap.book import RequestBook
from monitor.tap.external_id import external_id
from monitor.tap.record import PREFIX_CACHE, TAP_ERROR, Gap, NewRequest, RowTable, Segment, Step


def _table(**requests: tuple[int, int]) -> RowTable:
    """Requests by name as (first position, rows)."""
    lengths = [rows for _, rows in requests.values()]
    return RowTable(
        request_ids=list(requests),
        bounds=np.cumsum([0, *lengths]).astype(np.int32),
        first_positions=np.array([first for first, _ in requests.values()], np.int32),
        token_ids=None,
    )


def _book(*names: str, prompt: int = 4) -> RequestBook:
    book, step = RequestBook(external_id), Step(1)
    for name in names:
        book.begin(NewRequest(name, list(range(prompt))), step)
    assert [begin.handle for begin in step.begins] == list(range(1, len(names) + 1))
    return book


def test_a_mixed_batch_is_one_segment_per_request() -> None:
    book, step = _book("a", "b", "c"), Step(1)
    assert book.rows(_table(a=(0, 3), b=(0, 1), c=(0, 4)), step) is None
    assert step.segments == [Segment(1, 0, 3), Segment(2, 0, 1), Segment(3, 0, 4)]
    assert step.gaps == []


def test_what_the_prefix_cache_held_is_a_gap() -> None:
    book, step = _book("a", prompt=70), Step(1)
    book.rows(_table(a=(64, 6)), step)
    assert step.gaps == [Gap(1, 0, 64, PREFIX_CACHE)]
    assert step.segments == [Segment(1, 64, 6)]


def test_recomputed_positions_are_not_sent_again() -> None:
    book = _book("a", "b")
    book.rows(_table(a=(0, 4), b=(0, 2)), Step(1))
    book.rows(_table(a=(4, 1)), Step(1))
    step = Step(1)
    kept = book.rows(_table(b=(2, 2), a=(0, 7)), step)
    assert step.segments == [Segment(2, 2, 2), Segment(1, 5, 2)]
    assert kept is not None
    assert kept.tolist() == [0, 1, 7, 8]
    fully_known = Step(1)
    kept = book.rows(_table(a=(0, 6)), fully_known)
    assert fully_known.segments == []
    assert kept is not None
    assert kept.tolist() == []


def test_an_unknown_requests_rows_are_left_out() -> None:
    book, step = _book("a"), Step(1)
    kept = book.rows(_table(stranger=(9, 2), a=(0, 1)), step)
    assert step.segments == [Segment(1, 0, 1)]
    assert kept is not None
    assert kept.tolist() == [2]


def test_positions_of_a_failed_step_are_a_tap_error_and_not_a_prefix_cache_hit() -> None:
    book = _book("a")
    book.rows(_table(a=(0, 2)), Step(1))
    book.blind({"a": 4, "stranger": 9})
    step = Step(1)
    book.rows(_table(a=(4, 1)), step)
    assert step.gaps == [Gap(1, 2, 2, TAP_ERROR)]
    book.blind({"a": 6})
    end = Step(1)
    book.end("a", [7, 8, 9], end)
    assert end.gaps == [Gap(1, 5, 1, TAP_ERROR)]
    assert end.ends[0].positions == 6


def test_the_tail_is_what_was_sampled_and_never_fed_back() -> None:
    book = _book("a", "aborted", "asynchronous")
    book.rows(_table(a=(0, 4), aborted=(0, 2), asynchronous=(0, 4)), Step(1))
    book.rows(_table(a=(4, 1), asynchronous=(4, 1)), Step(1))
    step = Step(1)
    book.end("a", [70, 71], step)
    book.end("aborted", [], step)
    book.end("asynchronous", [80, -1], step)
    assert [end.positions for end in step.ends] == [5, 2, 5]
    assert [ints_from_bytes(end.tail_token_ids, "tail").tolist() for end in step.ends] == [[71], [], []]
    assert len(book) == 0


def test_the_same_id_served_again_is_another_request() -> None:
    book, step = _book("a"), Step(1)
    book.end("a", [], step)
    book.begin(NewRequest("a", [1]), step)
    assert step.begins[0].handle == 2


def test_external_ids_of_vllm_032() -> None:
    assert external_id("chatcmpl-4d3c-0a1b2c3d") == "chatcmpl-4d3c"
    assert external_id("1_chatcmpl-4d3c-0a1b2c3d") == "chatcmpl-4d3c"
    assert external_id("0-0a1b2c3d") == "0"
    assert external_id("12_0-0a1b2c3d") == "0"
    assert external_id("my-request", randomized=False) == "my-request"
    assert external_id("my-0a1b2c3d", randomized=False) == "my-0a1b2c3d"
