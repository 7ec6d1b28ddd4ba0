"""One bounded pool of pages for what transcripts need of all live requests: token ids and scores."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

PAGE_TOKENS: Final = 64
"""Tokens that a page holds at the most detectors of all loaded policies together; with fewer it holds more."""
_SMALLEST_PAGE: Final = 4096


def token_bytes(num_detectors: int) -> int:
    """Of one token in a page: its id, and per detector aggregate and own score."""
    return 4 + 8 * num_detectors


class PageOwner(Protocol):
    def lose(self, page: int) -> None:
        """The page was given up: the oldest that the owner has."""
        ...


@dataclass(frozen=True)
class HistoryStats:
    """`max_bytes` is the pool's size, `given_up` counts pages since the start."""

    max_bytes: int
    used_bytes: int
    given_up: int


class HistoryPool:
    """Pages of equal size, shared by all taps. When it is full the oldest page is given up: first one of a request that
    nothing flagged, else one of a flagged request. Used between frames; `stats` may be read from any.
    """

    def __init__(self, max_bytes: int, num_detectors: int) -> None:
        """`num_detectors` is the most that one tap may have. The pool holds at least two pages."""
        self.page_bytes = max(_SMALLEST_PAGE, PAGE_TOKENS * token_bytes(num_detectors))
        self.num_pages = max(max_bytes // self.page_bytes, 2)
        # The system gives memory to the pages that are written, and only then.
        self.arena = np.empty(self.num_pages * self.page_bytes, np.uint8)
        self.given_up = 0
        # Frames so far, in which of them a page was written last, and pages given up in the frame that wrote them.
        self._frame = 0
        self._written_in = array("q", bytes(8 * self.num_pages))
        self._given_up_fresh = 0
        self._untouched = 0
        self._free: list[int] = []
        self._plain: OrderedDict[int, PageOwner] = OrderedDict()
        self._flagged: OrderedDict[int, PageOwner] = OrderedDict()

    def take(self, owner: PageOwner, *, flagged: bool) -> int:
        """A page, its content undefined; one that is in use is taken away from its owner when none is free."""
        if self._free:
            page = self._free.pop()
        elif self._untouched < self.num_pages:
            page, self._untouched = self._untouched, self._untouched + 1
        else:
            page, loser = (self._plain or self._flagged).popitem(last=False)
            self.given_up += 1
            self._given_up_fresh += self._written_in[page] == self._frame
            loser.lose(page)
        (self._flagged if flagged else self._plain)[page] = owner
        return page

    def begin_frame(self) -> None:
        """Places that `TokenLog.write_ids` gives from now on hold as long as `holds`."""
        self._frame += 1
        self._given_up_fresh = 0

    @property
    def holds(self) -> bool:
        """True while no page that was written since `begin_frame` was given up."""
        return not self._given_up_fresh

    def mark_written(self, page: int) -> None:
        self._written_in[page] = self._frame

    def flag(self, page: int) -> None:
        """From now on the page is among those that are given up last."""
        self._flagged[page] = self._plain.pop(page)

    def give_back(self, page: int, *, flagged: bool) -> None:
        del (self._flagged if flagged else self._plain)[page]
        self._free.append(page)

    def stats(self) -> HistoryStats:
        used = self._untouched - len(self._free)
        return HistoryStats(self.arena.nbytes, used * self.page_bytes, self.given_up)


class HistoryView:
    """The pool's pages as tables of tokens with D detectors, or as lists of prompt tokens; T tokens fit in a page.

    Attributes:
        ids_gt: int32 [pages, T].
        scores_gtd, token_scores_gtd: float32 [pages, T, D].
        prompt_gp: int32 [pages, page_bytes / 4].
    """

    def __init__(self, pool: HistoryPool, num_detectors: int) -> None:
        self.pool = pool
        size, pages = pool.page_bytes, pool.num_pages
        tokens = self.tokens_per_page = size // token_bytes(num_detectors)
        columns = 4 * num_detectors

        shape, strides = (pages, tokens, num_detectors), (size, columns, 4)
        self.num_detectors = num_detectors
        self.ids_gt = np.ndarray((pages, tokens), np.int32, pool.arena.data, 0, (size, 4))
        self.scores_gtd = np.ndarray(shape, np.float32, pool.arena.data, 4 * tokens, strides)
        self.token_scores_gtd = np.ndarray(shape, np.float32, pool.arena.data, (4 + columns) * tokens, strides)
        self.prompt_gp = np.ndarray((pages, size // 4), np.int32, pool.arena.data, 0, (size, 4))

    def write_scores(
        self,
        places_n: npt.NDArray[np.int64],
        scores_nd: npt.NDArray[np.float64],
        token_scores_nd: npt.NDArray[np.float32],
    ) -> None:
        """Writes the scores of rows of any requests to their places; -1 is passed over."""
        if places_n.size and places_n.min() < 0:
            kept_n = places_n >= 0
            places_n, scores_nd, token_scores_nd = places_n[kept_n], scores_nd[kept_n], token_scores_nd[kept_n]
        page_n, token_n = np.divmod(places_n, self.tokens_per_page)
        self.scores_gtd[page_n, token_n] = scores_nd
        self.token_scores_gtd[page_n, token_n] = token_scores_nd
