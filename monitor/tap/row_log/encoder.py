"""The rows themselves in place of activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from monitor.tap.fired import FiredCounters, require_fired
from monitor.tap.host_copy import HostCopy, make_copier
from monitor.tap.plan import ActivePlan
from monitor.tap.record import HostRows, Payload
from monitor.tap.recorder.ring import as_bytes
from monitor.tap.sites import Site


class RowEncoder:
    """Copies what the hook points' buffers hold; see `monitor.tap.encode.Encoder`. On CUDA it has not run yet."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self._counters = FiredCounters(sites)
        self._copier = make_copier(sites[0].fired.device)

    def adopt(self, plan: ActivePlan) -> ActivePlan:
        """Nobody proposes one."""
        return plan

    def mark(self) -> None:
        self._counters.mark()

    def fired(self) -> bool:
        """True; the payload's `read` knows."""
        return True

    @torch.inference_mode()
    def encode(self, plan: ActivePlan | None, token_ids: Any, rows: int) -> Payload:
        fired_2h = self._counters.since_mark()
        # Clones: the next pass overwrites buffers and token ids.
        rows_nd = [site.buffer_nd[:rows].clone() for site in self._sites]
        copy = self._copier.copy([token_ids[:rows].clone(), fired_2h, *rows_nd])
        return _Rows(copy, sum(tensor.nbytes for tensor in rows_nd), self._counters.names)


class _Rows:
    """Rows on their way to the host."""

    def __init__(self, copy: HostCopy, nbytes: int, names: Sequence[str]) -> None:
        self._copy, self.nbytes, self._names = copy, nbytes, names

    def read(self) -> HostRows:
        ids_n, fired_2h, *rows = self._copy.read()
        require_fired(self._names, fired_2h)
        held = [(name, as_bytes(rows_nd)) for name, rows_nd in zip(self._names, rows, strict=True)]
        return HostRows(ids_n.numpy().astype(np.int32), held)
