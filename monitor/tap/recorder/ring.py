"""Memory of the flight recorder: per hook point a ring of residual rows, where the engine's tensors are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from monitor.errors import FeaturewatchError
from monitor.tap.sites import Site

INDEX_BYTES: Final = 8
"""Host memory of a place beside its rows: whose it is, and which position."""
_SLOT_BYTES: Final = 8


class Ring(Protocol):
    """`slots` places per hook point, each for one row. Rows are raw bytes: nothing is ever converted.

    Attributes:
        row_bytes: of one row at one hook point.
        nbytes: all memory held, on whichever device.
    """

    slots: int
    row_bytes: int
    nbytes: int

    def write(self, slot: int, row: int, count: int) -> None:
        """Copies rows `row` to `row + count` of every hook point's buffer to the places from `slot` on, which do not
        reach over the ring's end. Called in the engine's thread after the forward pass; waits for nothing."""
        ...

    def read(self, hook: int, slots_n: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """uint8 [n, row_bytes]: what the places hold now at the `hook`-th hook point. Called in one other thread; the
        result is valid until the next call. A place that is written meanwhile yields anything."""
        ...


class HostRing:
    """For engines whose tensors live on the host. Copies with numpy on the calling thread."""

    def __init__(self, sites: Sequence[Site], slots: int) -> None:
        self._buffers = [as_bytes(site.buffer_nd) for site in sites]
        # Zeroed, and so really there from the start on.
        self._rings = [
            as_bytes(torch.zeros(slots, *site.buffer_nd.shape[1:], dtype=site.buffer_nd.dtype)) for site in sites
        ]
        self.slots, self.row_bytes = slots, self._buffers[0].shape[1]
        self.nbytes = sum(ring.nbytes for ring in self._rings)

    def write(self, slot: int, row: int, count: int) -> None:
        for ring, buffer in zip(self._rings, self._buffers, strict=True):
            ring[slot : slot + count] = buffer[row : row + count]

    def read(self, hook: int, slots_n: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return self._rings[hook][slots_n]


class CudaRing:
    """For CUDA engines. Rows are copied on the engine's stream, so behind the pass that filled the buffers and before
    the next one; they are read on a stream of its own into pinned memory. Not run on a GPU yet.

    Args:
        most: rows of one `read`.
    """

    def __init__(self, sites: Sequence[Site], slots: int, most: int) -> None:
        first_nd = sites[0].buffer_nd
        device, width = first_nd.device, first_nd.shape[1:]
        self._buffers = [site.buffer_nd for site in sites]
        self._rings = [torch.zeros(slots, *width, dtype=first_nd.dtype, device=device) for _ in sites]
        # All of the reader's memory is here from the start: it allocates nothing beside a running engine.
        self._index_n = torch.zeros(most, dtype=torch.int64, device=device)
        self._index_host_n = torch.zeros(most, dtype=torch.int64, pin_memory=True)
        self._rows_nd = torch.zeros(most, *width, dtype=first_nd.dtype, device=device)
        self._rows_host_nd = torch.zeros(most, *width, dtype=first_nd.dtype, pin_memory=True)
        self._stream = torch.cuda.Stream(device=device)  # type: ignore[no-untyped-call]
        self._written = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.slots, self.row_bytes = slots, first_nd[0].nbytes
        held = (*self._rings, self._index_n, self._index_host_n, self._rows_nd, self._rows_host_nd)
        self.nbytes = sum(tensor.nbytes for tensor in held)

    def write(self, slot: int, row: int, count: int) -> None:
        for ring, buffer in zip(self._rings, self._buffers, strict=True):
            ring[slot : slot + count].copy_(buffer[row : row + count], non_blocking=True)
        self._written.record(torch.cuda.current_stream(self._rings[0].device))

    @torch.inference_mode()
    def read(self, hook: int, slots_n: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        count = len(slots_n)
        self._index_host_n[:count] = torch.from_numpy(slots_n)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._written)
            self._index_n[:count].copy_(self._index_host_n[:count], non_blocking=True)
            torch.index_select(self._rings[hook], 0, self._index_n[:count], out=self._rows_nd[:count])
            self._rows_host_nd[:count].copy_(self._rows_nd[:count], non_blocking=True)
        self._stream.synchronize()
        return as_bytes(self._rows_host_nd[:count])


def make_ring(sites: Sequence[Site], mib: int, most: int) -> Ring:
    """A ring for the device that the sites' buffers are on, with as many places as fit into `mib` MiB with their index.

    Args:
        most: rows of one `read`.

    Raises:
        FeaturewatchError: not one fits.
    """
    buffer_nd = sites[0].buffer_nd
    row_bytes, nbytes = buffer_nd[0].nbytes, mib << 20
    if buffer_nd.is_cuda:
        # What its reader needs.
        nbytes -= 2 * most * (row_bytes + _SLOT_BYTES)
    slots = nbytes // (len(sites) * row_bytes + INDEX_BYTES)
    if slots < 1:
        raise FeaturewatchError(
            f"recorder_mib {mib} for {len(sites)} hook points with rows of {row_bytes} bytes",
            "the flight recorder must hold at least one row per hook point",
            "give it more memory, or 0 to do without",
        )
    return CudaRing(sites, slots, most) if buffer_nd.is_cuda else HostRing(sites, slots)


def as_bytes(rows_nd: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The same memory as uint8 [n, bytes of a row]; numpy has no bfloat16."""
    view: Any = rows_nd.detach().view(torch.uint8).numpy()
    return view  # type: ignore[no-any-return]
