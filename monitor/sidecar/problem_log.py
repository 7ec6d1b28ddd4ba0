"""Counts what goes wrong, by kind, and logs it without flooding the log."""

from __future__ import annotations

import logging
from collections import Counter


class ProblemLog:
    """Every problem is counted; the 1st, 2nd, 4th, 8th, … of a kind is logged with its count."""

    def __init__(self, log: logging.Logger, subject: str) -> None:
        self._log = log
        self._subject = subject
        self._counts: Counter[str] = Counter()

    def note(self, kind: str, message: str, level: int = logging.WARNING) -> None:
        self._counts[kind] += 1
        count = self._counts[kind]
        if count & (count - 1) == 0:
            self._log.log(level, "%s: %s: %s (%d so far)", self._subject, kind, message, count)

    @property
    def total(self) -> int:
        return self._counts.total()

    @property
    def by_kind(self) -> dict[str, int]:
        return dict(self._counts)
