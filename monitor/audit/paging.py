"""The order of generations in listings: newest first."""

from __future__ import annotations

import re
from typing import NamedTuple

from monitor.errors import FeaturewatchError
from monitor.v1.generations_pb2 import GenerationSummary

_NANOS = re.compile(r"[0-9]{1,19}")
# The store keeps times as signed integers.
_LATEST_NANOS = (1 << 63) - 1


class PageKey(NamedTuple):
    """Place of a generation in the order; a larger key is newer and comes earlier."""

    start_unix_nanos: int
    generation_id: str

    @classmethod
    def of(cls, summary: GenerationSummary) -> PageKey:
        return cls(summary.start_unix_nanos, summary.generation_id)

    @classmethod
    def from_token(cls, token: str) -> PageKey | None:
        """Reads a page token; None for the empty one. Raises FeaturewatchError."""
        if not token:
            return None
        nanos, _, generation_id = token.partition(".")
        if not generation_id or not _NANOS.fullmatch(nanos) or int(nanos) > _LATEST_NANOS:
            raise FeaturewatchError(
                f"page token {token!r}",
                "it must be the next_page_token of an earlier answer",
                "leave it out to start from the newest generation",
            )
        return cls(int(nanos), generation_id)

    @property
    def token(self) -> str:
        return f"{self.start_unix_nanos}.{self.generation_id}"
