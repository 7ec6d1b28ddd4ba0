"""The rows themselves in place of activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from monitor.tap.encode import HooksSilentError
from monitor.tap.host_copy import HostCopy, make_copier
from monitor.tap.plan import ActivePlan
from monitor.tap.record import HostRows, Payload
from monitor.tap.recorder.ring import as_bytes
from monitor.tap.sites import Site


class RowEncoder:
    """Copies what the hook points' buffers hold; see `monitor.tap.encode.Encoder`. On CUDA it has not run yet."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self._names = [str(site.hook_point) for site in sites]
        self._copier = make_copier(sites[0].fired.device)
        self._before_h = self._read()

    def adopt(self, plan: ActivePlan) -> ActivePlan:
        """Nobody proposes one."""
        return plan

    def mark(self) -> None:
        self._before_h = self._read()

    def fired(self) -> bool:
        """True; the payload's `read` knows."""
        return True

    def _read(self) -> torch.Tensor:
        return torch.cat([site.fired for site in self._sites])

    @torch.inference_mode()
    def encode(self, plan: ActivePlan | None, token_ids: Any, rows: int) -> Payload:
        fired_2h = torch.stack([self._before_h, self._read()])
        # Clones: the next pass overwrites buffers and token ids.
        rows_nd = [site.buffer_nd[:rows].clone() for site in self._sites]
        copy = self._copier.copy([token_ids[:rows].clone(), fired_2h, *rows_nd])
        return _Rows(copy, sum(tensor.nbytes for tensor in rows_nd), self._names)


class _Rows:
    """Rows on their way to the host."""

    def __init__(self, copy: HostCopy, nbytes: int, names: Sequence[str]) -> None:
        self._copy, self.nbytes, self._names = copy, nbytes, names

    def read(self) -> HostRows:
        ids_n, fired_2h, *rows = self._copy.read()
        before_h, now_h = fired_2h.tolist()
        silent = [name for name, before, now in zip(self._names, before_h, now_h, strict=True) if now <= before]
        if silent:
            raise HooksSilentError(f"hook points {', '.join(silent)} did not run")
        held = [(name, as_bytes(rows_nd)) for name, rows_nd in zip(self._names, rows, strict=True)]
        return HostRows(ids_n.numpy().astype(np.int32), held)
