"""Summaries of the latest generations that nothing flagged, in memory only."""

from __future__ import annotations

from collections import OrderedDict

from monitor.audit.paging import PageKey
from monitor.v1.generations_pb2 import GenerationSummary


class RecentSummaries:
    """A ring: the oldest summary makes room for a new one."""

    def __init__(self, max_summaries: int = 4096) -> None:
        self._max_summaries = max_summaries
        self._by_id: OrderedDict[str, GenerationSummary] = OrderedDict()

    def add(self, summary: GenerationSummary) -> None:
        self._by_id[summary.generation_id] = summary
        self._by_id.move_to_end(summary.generation_id)
        if len(self._by_id) > self._max_summaries:
            self._by_id.popitem(last=False)

    def page(self, limit: int, before: PageKey | None = None) -> list[GenerationSummary]:
        """The newest first, only those after `before` in the listing."""
        found = [s for s in self._by_id.values() if before is None or PageKey.of(s) < before]
        return sorted(found, key=PageKey.of, reverse=True)[:limit]

    def summaries(self) -> list[GenerationSummary]:
        return [*self._by_id.values()]

    def __len__(self) -> int:
        return len(self._by_id)
