"""Cached prefixes that are computed by other requests in the very same step.

vLLM's scheduler enters a block into its prefix cache when it schedules the tokens, so a request can take from the cache
what another one computes in that step: its gap comes in the frame of those rows, and means something only after them.
"""

from __future__ import annotations

from collections.abc import Callable

from monitor.v1.tap_pb2 import Gap


class WaitingGaps:
    """Gaps of one frame whose prefixes are not known, by request, with all that follows them."""

    def __init__(self, knows: Callable[[Gap], bool]) -> None:
        """`knows` says whether a gap has nothing to wait for."""
        self._knows = knows
        self._gaps: dict[int, list[Gap]] = {}

    def __contains__(self, handle: int) -> bool:
        return handle in self._gaps

    def __len__(self) -> int:
        return len(self._gaps)

    def take(self, gap: Gap) -> bool:
        """Keeps a gap that must wait, itself or for an earlier one of its request; False when it need not."""
        if gap.handle not in self._gaps and self._knows(gap):
            return False
        self._gaps.setdefault(gap.handle, []).append(gap)
        return True

    def release(self) -> list[Gap]:
        """The gaps of requests whose prefixes are known by now; when there are none, all: nothing more will come."""
        ready = [handle for handle, gaps in self._gaps.items() if all(self._knows(gap) for gap in gaps)]
        return [gap for handle in ready or [*self._gaps] for gap in self._gaps.pop(handle)]
