"""Generations with what computed them."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.calibration.generation import Generation


@dataclass(frozen=True)
class Computed:
    """Attributes:

    engine: in words.
    serving: its configuration, by the keys of `fittedOn`.
    notes: what the reader must know of it.
    left_out: why, and how many samples were not run.
    """

    generations: list[Generation]
    engine: str
    serving: dict[str, str]
    notes: tuple[str, ...]
    left_out: dict[str, int]
