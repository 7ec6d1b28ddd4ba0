"""Puts recorded rows where they belong: every position of every sequence exactly once, or an error that says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monitor.errors import FeaturewatchError
from training.harvest.row_log import RecordedRun

_REMEDY = "report this: no row may be lost, doubled or taken for another's. The engine's log may say why"


class RowMatcher:
    """Rows of one batch.

    Args:
        sequences: token ids of each sequence, by the id that its request has for the client.
        hook_points: names.
        length: t, of the longest sequence or more.
        width: d.
    """

    def __init__(
        self, sequences: Mapping[str, npt.NDArray[np.int64]], hook_points: Sequence[str], length: int, width: int
    ) -> None:
        self._sequences = {name: (index, torch.from_numpy(ids)) for index, (name, ids) in enumerate(sequences.items())}
        self._rows = {name: torch.zeros(len(sequences), length, width) for name in hook_points}
        self._seen_bt = np.zeros((len(sequences), length), np.bool_)

    def take(self, recorded: RecordedRun) -> None:
        """Rows of other requests are passed over; so are those behind a sequence's end, which vLLM computes for tokens
        that it sampled.

        Raises:
            FeaturewatchError: a position a second time, or with another token than the sequence has there.
        """
        run = recorded.run
        if run.external_id not in self._sequences:
            return
        index, token_ids_t = self._sequences[run.external_id]
        count = min(run.length, len(token_ids_t) - run.first)
        if count <= 0:
            return
        part = slice(run.first, run.first + count)
        if self._seen_bt[index, part].any():
            at = run.first + int(np.argmax(self._seen_bt[index, part]))
            raise FeaturewatchError(f"sequence {run.external_id}: two rows of position {at}", "there is one", _REMEDY)
        if not torch.equal(recorded.token_ids_n[:count].long(), token_ids_t[part]):
            raise FeaturewatchError(
                f"sequence {run.external_id}: positions {run.first} to {run.first + count - 1} with other tokens than "
                "it has",
                "a row must be of its own token",
                _REMEDY,
            )
        for name, rows_nd in recorded.rows_nd.items():
            self._rows[name][index, part] = rows_nd[:count].float()
        self._seen_bt[index, part] = True

    def complete(self) -> dict[str, Tensor]:
        """Float32 [b, t, d] per hook point, zero behind each sequence's end.

        Raises:
            FeaturewatchError: positions are missing.
        """
        missing = []
        for name, (index, token_ids_t) in self._sequences.items():
            absent = np.flatnonzero(~self._seen_bt[index, : len(token_ids_t)])
            if len(absent):
                missing.append(f"{name} ({len(absent)} of {len(token_ids_t)} positions, the first is {absent[0]})")
        if missing:
            raise FeaturewatchError(
                f"no rows of sequences {', '.join(missing[:5])}" + (", ..." if len(missing) > 5 else ""),
                f"every position needs its row, and {len(missing)} of {len(self._sequences)} sequences lack some",
                _REMEDY,
            )
        return self._rows
