"""A failure as lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monitor.policy_tests.failure import Failure, Scores


def failure_text(file: str, failure: Failure) -> list[str]:
    """What was expected and what happened, then the scores around the token."""
    lines = [f"{file}:{failure.line} {failure.text}"]
    for scores in failure.around:
        lines += _table(scores, failure.at)
    return lines


def _table(scores: Scores, at: int | None) -> list[str]:
    head = f"  {scores.detector} (warn {scores.warn:g}, fire {scores.fire:g}, clear {scores.clear:g})"
    rows = [
        ("token", [f"[{position}]" if position == at else str(position) for position in scores.positions]),
        ("score", [_number(score) for score in scores.token_scores]),
        ("aggregate", [_number(score) for score in scores.scores]),
        ("state", list(scores.states)),
    ]
    widths = [max(len(cells[k]) for _, cells in rows) for k in range(len(scores.positions))]
    return [head, *(f"    {name:<9}  {_joined(cells, widths)}" for name, cells in rows)]


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _number(value: float) -> str:
    return "_" if math.isnan(value) else f"{value:.4g}"
