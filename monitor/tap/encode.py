"""From the buffers that a forward pass filled to the watched activations on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from monitor.tap.blas import use_one_blas_thread
from monitor.tap.fired import FiredCounters, require_fired
from monitor.tap.host_copy import CudaCopier, HostCopy
from monitor.tap.plan import ActivePlan, HookWeights
from monitor.tap.record import HostRows, Payload
from monitor.tap.sites import Site


class Encoder(Protocol):
    """Encodes the rows of the pass that has just been launched. Called in the engine's thread."""

    def adopt(self, plan: ActivePlan) -> ActivePlan:
        """Brings a plan to the engine's device. Called between two steps, never while vLLM captures a graph."""
        ...

    def encode(self, plan: ActivePlan | None, token_ids: Any, rows: int) -> Payload | None:
        """Rows for the host, or None without a plan.

        Args:
            plan: directions; an empty plan still yields token ids.
            token_ids: [rows or more] on the engine's device.
            rows: of this pass.
        """
        ...

    def mark(self) -> None:
        """A forward pass begins."""
        ...

    def fired(self) -> bool:
        """True when every hook point's operation ran since `mark`. Where that cannot be known without waiting for the
        device, True, and the payload's `read` raises HooksSilentError if it turns out otherwise."""
        ...


class HostPayload:
    """Rows that are on the host already."""

    def __init__(self, rows: HostRows) -> None:
        self._rows = rows

    @property
    def nbytes(self) -> int:
        return self._rows.token_ids_n.nbytes + sum(acts.nbytes for _, acts in self._rows.activations)

    def read(self) -> HostRows:
        return self._rows


class CpuEncoder:
    """For engines whose tensors live on the host: the pass has ended when the engine's call returns.

    Encodes with numpy on the calling thread (see `monitor.tap.blas`), not with torch on the engine's thread pool.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        use_one_blas_thread()
        self._counts = [site.fired.numpy() for site in sites]
        self._marked = self._read()

    def adopt(self, plan: ActivePlan) -> ActivePlan:
        return plan

    def mark(self) -> None:
        self._marked = self._read()

    def fired(self) -> bool:
        return all(now > before for now, before in zip(self._read(), self._marked, strict=True))

    def _read(self) -> list[int]:
        return [int(count[0]) for count in self._counts]

    def encode(self, plan: ActivePlan | None, token_ids: Any, rows: int) -> Payload | None:
        if plan is None:
            return None
        ids_n: npt.NDArray[np.int32] = token_ids[:rows].numpy().astype(np.int32)
        return HostPayload(HostRows(ids_n, [(hook.name, self._activations(hook, rows)) for hook in plan.hooks]))

    @staticmethod
    def _activations(hook: HookWeights, rows: int) -> npt.NDArray[np.float32]:
        """As `HookWeights.encode`."""
        x_nd: npt.NDArray[np.float32] = hook.site.buffer_nd[:rows].float().numpy()
        acts_nk: npt.NDArray[np.float32] = x_nd @ hook.w_dk.numpy()
        acts_nk += hook.bias_k.numpy()
        if hook.has_threshold:
            np.copyto(acts_nk, 0.0, where=acts_nk <= hook.threshold_k.numpy())
        return acts_nk


class _CudaPayload:
    """Rows in pinned memory, once `copy` is done."""

    def __init__(self, copy: HostCopy, nbytes: int, hooks: Sequence[str], sites: Sequence[str]) -> None:
        self._copy, self._nbytes, self._hooks, self._sites = copy, nbytes, hooks, sites

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def read(self) -> HostRows:
        ids_n, fired_2h, *acts = self._copy.read()
        require_fired(self._sites, fired_2h)
        activations = [(name, acts_nk.numpy()) for name, acts_nk in zip(self._hooks, acts, strict=True)]
        return HostRows(ids_n.numpy().astype(np.int32), activations)


class CudaEncoder:
    """For CUDA engines: encodes on the engine's stream, so before the next pass may overwrite the buffers, and copies
    on a side stream into pinned memory. The engine's thread never waits. Not proven on a GPU in this version."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._counters = FiredCounters(sites)
        self._copier = CudaCopier(sites[0].fired.device)

    def adopt(self, plan: ActivePlan) -> ActivePlan:
        return replace(plan, hooks=tuple(hook.to(hook.site.buffer_nd.device) for hook in plan.hooks))

    def mark(self) -> None:
        """The counters stay on the device; `read` of the payload compares them."""
        self._counters.mark()

    def fired(self) -> bool:
        return True

    @torch.inference_mode()
    def encode(self, plan: ActivePlan | None, token_ids: Any, rows: int) -> Payload | None:
        if plan is None:
            return None
        ids_n = token_ids[:rows].clone()
        acts = [hook.encode(hook.site.buffer_nd[:rows]) for hook in plan.hooks]
        fired_2h = self._counters.since_mark()
        return _CudaPayload(
            copy=self._copier.copy([ids_n, fired_2h, *acts]),
            nbytes=ids_n.nbytes + sum(acts_nk.nbytes for acts_nk in acts),
            hooks=[hook.name for hook in plan.hooks],
            sites=self._counters.names,
        )


def make_encoder(sites: Sequence[Site]) -> Encoder:
    """The encoder for the device that the sites' buffers are on."""
    return CudaEncoder(sites) if sites[0].fired.is_cuda else CpuEncoder(sites)
