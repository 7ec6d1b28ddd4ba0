"""Tokens and scores of one request, by position."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.audit import UNKNOWN_TOKEN


class TokenLog:
    """Arrays that grow with the request; P positions, D detectors.

    Attributes:
        token_ids_p: int32, UNKNOWN_TOKEN where no frame named the token.
        observed_p: bool, True where the detectors saw the row.
        scores_pd, token_scores_pd: float32, NaN where nothing was judged.
        states_pd: int8, 0 where nothing was judged.
    """

    def __init__(self, prompt_ids: npt.NDArray[np.int32], num_detectors: int) -> None:
        self.token_ids_p = np.zeros(0, np.int32)
        self.observed_p = np.zeros(0, np.bool_)
        self.scores_pd = np.zeros((0, num_detectors), np.float32)
        self.token_scores_pd = np.zeros((0, num_detectors), np.float32)
        self.states_pd = np.zeros((0, num_detectors), np.int8)
        self.reserve(len(prompt_ids) + 64)
        self.token_ids_p[: len(prompt_ids)] = prompt_ids

    def reserve(self, positions: int) -> None:
        """Makes room for `positions` in all."""
        before = self.token_ids_p.size
        if positions <= before:
            return
        size = max(positions, 2 * before)
        self.token_ids_p = _grown(self.token_ids_p, size, UNKNOWN_TOKEN)
        self.observed_p = _grown(self.observed_p, size, False)
        self.scores_pd = _grown(self.scores_pd, size, np.nan)
        self.token_scores_pd = _grown(self.token_scores_pd, size, np.nan)
        self.states_pd = _grown(self.states_pd, size, 0)

    def write_ids(self, first: int, token_ids_n: npt.NDArray[np.int32]) -> None:
        self.reserve(first + len(token_ids_n))
        self.token_ids_p[first : first + len(token_ids_n)] = token_ids_n

    def write_scores(
        self,
        first: int,
        scores_nd: npt.NDArray[np.float64],
        token_scores_nd: npt.NDArray[np.float64],
        states_nd: npt.NDArray[np.int8],
    ) -> None:
        span = slice(first, first + len(scores_nd))
        self.observed_p[span] = True
        self.scores_pd[span] = scores_nd
        self.token_scores_pd[span] = token_scores_nd
        self.states_pd[span] = states_nd


def _grown(array: npt.NDArray[Any], size: int, fill: float) -> npt.NDArray[Any]:
    larger = np.full((size, *array.shape[1:]), fill, array.dtype)
    larger[: array.shape[0]] = array
    return larger
