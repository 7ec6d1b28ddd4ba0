"""Transcripts in pages of one pool against a log that keeps everything, and what a full pool does to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from fake_tap import FrameMaker, Rows, begin, end
from hypothesis import given, settings
from hypothesis import strategies as st
from sidecar_kit import new_judge

from monitor.audit import UNKNOWN_TOKEN
from monitor.sidecar.history import HistoryPool, HistoryView, token_bytes
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.records import prepare_record
from monitor.sidecar.token_log import TokenLog

D = 3


@dataclass
class NaiveLog:
    """Arrays over all positions."""

    prompt: npt.NDArray[np.int32]
    ids: dict[int, int] = field(default_factory=dict)
    rows: dict[int, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = field(default_factory=dict)
    next_position: int = 0
    flagged: bool = False

    def id_at(self, position: int) -> int:
        prompt = int(self.prompt[position]) if position < len(self.prompt) else UNKNOWN_TOKEN
        return self.ids.get(position, prompt)


def small_pool(pages: int) -> HistoryPool:
    pool = HistoryPool(1, D)
    return HistoryPool(pages * pool.page_bytes, D)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 3000)),
        # Of which requests, how far each skips ahead, how many rows each.
        st.tuples(
            st.just("rows"),
            st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400), st.integers(1, 300)), max_size=4),
        ),
        st.tuples(st.just("flag"), st.integers(0, 5)),
        st.tuples(st.just("release"), st.integers(0, 5)),
    ),
    max_size=25,
)


def apply(steps: list[tuple[object, ...]], pool: HistoryPool, seed: int) -> list[tuple[TokenLog, NaiveLog]]:
    rng, view = np.random.default_rng(seed), HistoryView(pool, D)
    live: list[tuple[TokenLog, NaiveLog]] = []
    for step in steps:
        match step:
            case ("open", int(prompt)):
                ids = rng.integers(0, 1000, prompt).astype(np.int32)
                live.append((TokenLog(view, ids), NaiveLog(ids)))
            case ("rows", list(spans)) if live:
                _frame(live, spans, view, rng)
            case ("flag", int(which)) if live:
                log, naive = live[which % len(live)]
                log.flag()
                naive.flagged = True
            case ("release", int(which)) if live:
                live.pop(which % len(live))[0].release()
    return live


def _frame(
    live: list[tuple[TokenLog, NaiveLog]],
    spans: list[tuple[int, int, int]],
    view: HistoryView,
    rng: np.random.Generator,
) -> None:
    """As the judge does it: ids as rows come, scores of all rows of the frame at the end."""
    written, places, scores, token_scores = [], [], [], []
    view.pool.begin_frame()
    for which, skip, count in {span[0] % len(live): span for span in spans}.values():
        log, naive = live[which % len(live)]
        first = naive.next_position + skip
        ids_n = rng.integers(0, 1000, count).astype(np.int32)
        places.append(log.write_ids(first, ids_n))
        scores.append(rng.standard_normal((count, D)))
        token_scores.append(rng.standard_normal((count, D)))
        written.append((log, first, count))
        naive.next_position = first + count
        for row in range(count):
            naive.ids[first + row] = int(ids_n[row])
            naive.rows[first + row] = scores[-1][row].astype(np.float32), token_scores[-1][row].astype(np.float32)
    if not view.pool.holds:
        places = [log.places(first, count) for log, first, count in written]
    if places:
        view.write_scores(np.concatenate(places), np.concatenate(scores), np.concatenate(token_scores))


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(0, 2**16))
def test_a_pool_that_is_large_enough_forgets_nothing(steps: list[tuple[object, ...]], seed: int) -> None:
    pool = small_pool(2000)
    live = apply(steps, pool, seed)
    assert pool.given_up == 0
    for log, naive in live:
        size = max(naive.next_position, len(naive.prompt))
        assert log.ids(0, size).tolist() == [naive.id_at(position) for position in range(size)]
        for found_pd, part in zip(log.scores(size), (0, 1), strict=True):
            expected = np.full((size, D), np.nan, np.float32)
            for position, row in naive.rows.items():
                expected[position] = row[part]
            np.testing.assert_array_equal(found_pd, expected)
        prompt = log.prompt_ids(0, len(naive.prompt))
        assert prompt is not None
        assert prompt.tolist() == naive.prompt.tolist()
        assert log.losses() == []
    for log, _ in live:
        log.release()
    assert pool.stats().used_bytes == 0


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(0, 2**16), st.integers(2, 12))
def test_with_a_small_pool_nothing_is_wrong_only_absent_and_told(
    steps: list[tuple[object, ...]], seed: int, pages: int
) -> None:
    pool = small_pool(pages)
    for log, naive in apply(steps, pool, seed):
        size = max(naive.next_position, len(naive.prompt))
        ids = log.ids(0, size).tolist()
        scores_pd, token_scores_pd = log.scores(size)
        for position in range(size):
            row = naive.rows.get(position)
            if row is None or (position < log.lost_before and np.isnan(scores_pd[position]).all()):
                assert np.isnan(scores_pd[position]).all()
                assert np.isnan(token_scores_pd[position]).all()
            else:
                np.testing.assert_array_equal(scores_pd[position], row[0])
                np.testing.assert_array_equal(token_scores_pd[position], row[1])
            known = ids[position] == naive.id_at(position)
            # A token may be absent, where the record says so; it is never another.
            lost = position < max(log.lost_before, log.prompt_lost_before)
            allowed = {UNKNOWN_TOKEN, int(naive.prompt[position]) if position < len(naive.prompt) else UNKNOWN_TOKEN}
            assert known or (lost and ids[position] in allowed)
        prompt = log.prompt_ids(0, len(naive.prompt))
        assert prompt is None or prompt.tolist() == naive.prompt.tolist()
        assert bool(log.losses()) == bool(log.lost_before or log.prompt_lost_before)
    assert pool.stats().used_bytes <= pool.stats().max_bytes == pages * pool.page_bytes


def test_unflagged_requests_give_up_their_oldest_pages_before_flagged_ones() -> None:
    pool = small_pool(4)
    view = HistoryView(pool, D)
    tokens = view.tokens_per_page
    ids = np.arange(2 * tokens, dtype=np.int32)
    none = np.zeros(0, np.int32)
    flagged, older, newer = (TokenLog(view, none) for _ in range(3))
    flagged.write_ids(0, ids)
    flagged.flag()
    older.write_ids(0, ids)
    newer.write_ids(0, ids[:tokens])
    assert (flagged.lost_before, older.lost_before) == (0, tokens)
    newer.write_ids(tokens, ids[tokens:])
    assert (flagged.lost_before, older.lost_before, newer.lost_before) == (0, 2 * tokens, 0)
    newer.flag()
    # Only flagged ones are left: the oldest of them goes.
    late = TokenLog(view, none)
    late.write_ids(0, ids[:1])
    assert (flagged.lost_before, newer.lost_before) == (tokens, 0)
    assert pool.stats().given_up == 3
    late.release()
    newer.release()
    assert pool.stats().used_bytes == pool.page_bytes
    assert flagged.ids(0, 2 * tokens).tolist() == [UNKNOWN_TOKEN] * tokens + ids[tokens:].tolist()


def test_a_page_holds_64_tokens_at_the_most_detectors() -> None:
    pool = HistoryPool(1 << 20, 32)
    assert pool.page_bytes == 64 * token_bytes(32)
    assert HistoryView(pool, 32).tokens_per_page == 64
    assert HistoryView(pool, 4).tokens_per_page == pool.page_bytes // token_bytes(4)
    assert pool.stats().max_bytes <= 1 << 20


@pytest.mark.parametrize("pages", [2, 3, 5])
def test_verdicts_and_books_do_not_depend_on_the_pool(plan: TapPlan, pages: int) -> None:
    """Two judges, one of them with a pool far too small, say the same of every request."""
    rng = np.random.default_rng(pages)
    large = new_judge(plan)
    small = new_judge(plan, history=HistoryPool(pages * 4096, len(plan.policies.detectors)))
    maker, first, told = FrameMaker(plan.watch_plan), 0, []
    ids = [rng.integers(0, 9, 900).tolist() for _ in range(4)]
    begins = [begin(handle, ids[handle][:400]) for handle in range(4)]
    while first < 900:
        count = min(int(rng.integers(1, 250)), 900 - first)
        dense = rng.standard_normal(count).tolist()
        rows = [Rows(handle, first, ids[handle][first : first + count], dense=dense) for handle in range(4)]
        frame = maker(rows, begins=[] if first else begins)
        told.append([[alert.alert_id for alert in judge.apply(frame).alerts] for judge in (large, small)])
        first += count
    assert any(one for one, _ in told)
    assert all(one == other for one, other in told)
    closing = maker(ends=[end(handle, 900) for handle in range(4)])
    for one, other in zip(large.apply(closing).ended, small.apply(closing).ended, strict=True):
        assert one.summary() == other.summary()
        assert one.coverage == other.coverage
        assert other.coverage.observed == 900
        assert one.log.losses() == []
        assert "were given up" in other.log.losses()[0]
        assert other.notes == []
        whole, part = one.transcript_arrays(), other.transcript_arrays()
        assert part.observed_p.sum() == whole.observed_p.sum() == 900
        seen = ~np.isnan(part.scores_pd)
        np.testing.assert_array_equal(part.scores_pd[seen], whole.scores_pd[seen])
        known = part.token_ids_p >= 0
        np.testing.assert_array_equal(part.token_ids_p[known], whole.token_ids_p[known])


def test_a_record_says_what_was_given_up(plan: TapPlan) -> None:
    judge = new_judge(plan, history=HistoryPool(3 * 4096, len(plan.policies.detectors)))
    maker = FrameMaker(plan.watch_plan)
    dense = [0.0] * 900
    dense[4] = 9.0
    (fired,) = judge.apply(maker([Rows(1, 0, [2] * 900, dense=dense)], begins=[begin(1, [2] * 3)])).alerts
    (ended,) = judge.apply(maker(ends=[end(1, 900)])).ended
    record = prepare_record(ended, judge)()
    (note,) = [note for note in record.notes if note.startswith("scores and token ids")]
    first = int(note.split("before position ")[1].split()[0])
    assert note.endswith("the pool of histories (0 MiB) was full")
    assert 0 < first < 900
    assert fired.position == 4
    # One frame was larger than the pool, and the page of this token was gone when the alert was made.
    assert (fired.token_id, fired.token) == (0, "")
    # Seen it was, all of it, and the peak was kept apart.
    assert all(token.observed for token in record.tokens[:900])
    assert [np.isnan(token.scores).all() for token in record.tokens[:900]] == [p < first for p in range(900)]
    assert record.summary.coverage.observed == 900
    assert [(peak.position, peak.score) for peak in record.summary.peaks if peak.detector == "dense"] == [(4, 9.0)]
