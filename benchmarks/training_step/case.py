"""What is timed: one optimisation step of one library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from training_step.world import World


class Stepper(Protocol):
    """A trainer that is under way."""

    def step(self) -> None:
        """One whole step on the next batch: forward, backward, clipping, optimiser, counters."""
        ...

    def l0(self) -> float:
        """Active latents per row of the last batch, or of one batch now."""
        ...

    def close(self) -> None:
        """Ends what runs beside."""
        ...


@dataclass(frozen=True)
class Case:
    """
    Attributes:
        kind: which recipe, as our registry names it.
        library: whose.
        note: what is on or off.
        start: makes the stepper.
    """

    kind: str
    library: str
    note: str
    start: Callable[[World], Stepper]
