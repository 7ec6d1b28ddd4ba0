"""Requests that have ended: what a capture of their rows must know, for as long as a recorder may still hold them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.sidecar.evidence.capture import Subject
from monitor.sidecar.request import LiveRequest

# With the recorder's usual 64 MiB rows are overwritten long before.
MOST_ENDED: Final = 1024


def subject_of(request: LiveRequest, *, live: bool) -> Subject:
    """What a capture must know of a request."""
    identity = request.identity
    return Subject(
        generation_id=identity.generation_id,
        request_id=identity.request_id,
        handle=identity.handle,
        positions=request.coverage.next_position,
        live=live,
        content=request.content,
        flagged=bool(request.alerts),
        dictionaries=request.plan.dictionaries,
        directions=request.plan.policies.directions,
    )


def observed_positions(request: LiveRequest) -> npt.NDArray[np.bool_]:
    """Bool [positions]: where the detectors saw a row that this request computed."""
    return request.coverage.observed_p()


@dataclass(frozen=True)
class _Ended:
    subject: Subject
    observed_bits: npt.NDArray[np.uint8]


class EndedRequests:
    """The latest `MOST_ENDED` of one tap, by handle. Used between frames only."""

    def __init__(self) -> None:
        self._by_handle: OrderedDict[int, _Ended] = OrderedDict()

    def add(self, request: LiveRequest) -> None:
        handle = request.identity.handle
        self._by_handle[handle] = _Ended(subject_of(request, live=False), np.packbits(observed_positions(request)))
        self._by_handle.move_to_end(handle)
        if len(self._by_handle) > MOST_ENDED:
            self._by_handle.popitem(last=False)

    def forget(self, handle: int) -> None:
        """The handle names another request from now on."""
        self._by_handle.pop(handle, None)

    def subject(self, generation_id: str) -> Subject | None:
        ended = self._find(generation_id)
        return None if ended is None else ended.subject

    def observed(self, generation_id: str) -> npt.NDArray[np.bool_] | None:
        """Bool [positions], or None when it is not known any more."""
        ended = self._find(generation_id)
        if ended is None:
            return None
        return np.unpackbits(ended.observed_bits, count=ended.subject.positions).astype(np.bool_)

    def _find(self, generation_id: str) -> _Ended | None:
        return next((e for e in self._by_handle.values() if e.subject.generation_id == generation_id), None)
