"""Tokens and scores of one request, by position, in pages of the shared pool."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.audit import UNKNOWN_TOKEN
from monitor.sidecar.history import HistoryView

_PAGE_BITS: Final = 32
_PAGE_MASK: Final = (1 << _PAGE_BITS) - 1


class TokenLog:
    """What is known of a request's tokens; what the pool had to give up reads as unknown. P positions, D detectors.

    Attributes:
        lost_before: scores and token ids of rows before this position were given up.
        prompt_lost_before: the prompt's token ids before this position were given up; rows name theirs as well.
    """

    __slots__ = (
        "_flagged",
        "_pages",
        "_prompt_first",
        "_prompt_pages",
        "_prompt_tokens",
        "_view",
        "_written",
        "lost_before",
        "prompt_lost_before",
    )

    def __init__(self, view: HistoryView, prompt_ids_p: npt.NDArray[np.int32]) -> None:
        self._view = view
        self._flagged = False
        # Which tokens a page holds (by its number among the request's), and the page: one integer each, ascending.
        self._pages = array("q")
        self._prompt_pages = array("i")
        self._prompt_first = 0
        self._prompt_tokens = len(prompt_ids_p)
        # Behind the last row taken.
        self._written = 0
        self.lost_before = 0
        self.prompt_lost_before = 0
        size = view.prompt_gp.shape[1]
        for start in range(0, len(prompt_ids_p), size):
            page = self._take()
            part = prompt_ids_p[start : start + size]
            view.prompt_gp[page, : len(part)] = part
            self._prompt_pages.append(page)

    def write_ids(self, first: int, token_ids_n: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Takes the tokens of rows from position `first` on, which lie behind all that were taken before.

        Returns:
            int64 [n], the places for their scores (`HistoryView.write_scores`), as long as `HistoryPool.holds`.
        """
        self._written = first + len(token_ids_n)
        tokens = self._view.tokens_per_page
        places_n = np.empty(len(token_ids_n), np.int64)
        if len(token_ids_n) == 1:
            page, offset = self._page_for(first // tokens), first % tokens
            self._view.pool.mark_written(page)
            self._view.ids_gt[page, offset] = token_ids_n[0]
            places_n[0] = page * tokens + offset
            return places_n
        for row, position, count in self._pieces(first, len(token_ids_n)):
            page = self._page_for(position // tokens)
            self._view.pool.mark_written(page)
            offset = position % tokens
            self._view.ids_gt[page, offset : offset + count] = token_ids_n[row : row + count]
            place = page * tokens + offset
            places_n[row : row + count] = np.arange(place, place + count)
        return places_n

    def places(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """int64 [n], the places of rows from position `first` on; -1 where they were given up."""
        places_n = np.full(count, -1, np.int64)
        tokens = self._view.tokens_per_page
        for row, position, number in self._pieces(first, count):
            page = self._find(position // tokens)
            if page >= 0:
                place = page * tokens + position % tokens
                places_n[row : row + number] = np.arange(place, place + number)
        return places_n

    def ids(self, first: int, until: int) -> npt.NDArray[np.int32]:
        """Int32 [until - first], UNKNOWN_TOKEN where the token is not known."""
        ids_n = np.full(max(until - first, 0), UNKNOWN_TOKEN, np.int32)
        self._copy_prompt(first, ids_n)
        tokens = self._view.tokens_per_page
        for row, position, count in self._pieces(first, len(ids_n)):
            page = self._find(position // tokens)
            if page >= 0:
                offset = position % tokens
                found_n, known_n = ids_n[row : row + count], self._view.ids_gt[page, offset : offset + count]
                np.copyto(found_n, known_n, where=known_n != UNKNOWN_TOKEN)
        return ids_n

    def prompt_ids(self, first: int, until: int) -> npt.NDArray[np.int32] | None:
        """The prompt's tokens as the engine named them at the begin; None when some of them were given up."""
        if first < self.prompt_lost_before or until > self._prompt_tokens:
            return None
        ids_n = np.empty(max(until - first, 0), np.int32)
        self._copy_prompt(first, ids_n)
        return ids_n

    def scores(self, size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Aggregates and own scores of positions before `size`, float32 [size, D] each; NaN where none is known."""
        view = self._view
        scores_pd = np.full((size, view.num_detectors), np.nan, np.float32)
        token_scores_pd = scores_pd.copy()
        for entry in self._pages:
            page, start = entry & _PAGE_MASK, (entry >> _PAGE_BITS) * view.tokens_per_page
            count = min(view.tokens_per_page, size - start)
            if count > 0:
                scores_pd[start : start + count] = view.scores_gtd[page, :count]
                token_scores_pd[start : start + count] = view.token_scores_gtd[page, :count]
        return scores_pd, token_scores_pd

    def losses(self) -> list[str]:
        """What the pool gave up of this request, one readable line each."""
        full = f"the pool of histories ({self._view.pool.arena.nbytes / 2**20:.0f} MiB) was full"
        lines = []
        if self.lost_before:
            lines.append(f"scores and token ids of rows before position {self.lost_before} were given up: {full}")
        if self.prompt_lost_before:
            lines.append(
                f"token ids of the prompt before position {self.prompt_lost_before} were given up where no row named "
                f"them: {full}"
            )
        return lines

    def flag(self) -> None:
        """The request is flagged: its pages are given up last."""
        if not self._flagged:
            self._flagged = True
            for page in self._own():
                self._view.pool.flag(page)

    def release(self) -> None:
        """Gives all pages back; nothing is known afterwards."""
        for page in self._own():
            self._view.pool.give_back(page, flagged=self._flagged)
        self._pages, self._prompt_pages = array("q"), array("i")
        self.prompt_lost_before = self._prompt_tokens

    def lose(self, page: int) -> None:
        """The pool gave up the oldest page."""
        if self._prompt_pages:
            assert self._prompt_pages[0] == page
            del self._prompt_pages[0]
            self._prompt_first += self._view.prompt_gp.shape[1]
            self.prompt_lost_before = min(self._prompt_first, self._prompt_tokens)
            return
        assert self._pages[0] & _PAGE_MASK == page
        behind = ((self._pages[0] >> _PAGE_BITS) + 1) * self._view.tokens_per_page
        self.lost_before = min(behind, self._written)
        del self._pages[0]

    def _own(self) -> list[int]:
        """The oldest first."""
        return [*self._prompt_pages, *(entry & _PAGE_MASK for entry in self._pages)]

    def _take(self) -> int:
        return self._view.pool.take(self, flagged=self._flagged)

    def _page_for(self, number: int) -> int:
        """The page of these tokens, made if it is not there."""
        if self._pages and self._pages[-1] >> _PAGE_BITS == number:
            return self._pages[-1] & _PAGE_MASK
        page, view = self._take(), self._view
        view.ids_gt[page] = UNKNOWN_TOKEN
        view.scores_gtd[page] = np.nan
        view.token_scores_gtd[page] = np.nan
        self._pages.append(number << _PAGE_BITS | page)
        return page

    def _find(self, number: int) -> int:
        """The page of these tokens, or -1."""
        index = bisect_left(self._pages, number << _PAGE_BITS)
        if index == len(self._pages) or self._pages[index] >> _PAGE_BITS != number:
            return -1
        return self._pages[index] & _PAGE_MASK

    def _pieces(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(row, position, count) of the parts of a span that lie in one page each."""
        tokens, row = self._view.tokens_per_page, 0
        while row < count:
            number = min(count - row, tokens - (first + row) % tokens)
            yield row, first + row, number
            row += number

    def _copy_prompt(self, first: int, into_n: npt.NDArray[np.int32]) -> None:
        """Fills in what is known of the prompt from position `first` on."""
        size = self._view.prompt_gp.shape[1]
        start = max(first, self._prompt_first)
        end = min(first + len(into_n), self._prompt_tokens)
        while start < end:
            page = self._prompt_pages[(start - self._prompt_first) // size]
            offset = start % size
            count = min(end - start, size - offset)
            into_n[start - first : start - first + count] = self._view.prompt_gp[page, offset : offset + count]
            start += count
