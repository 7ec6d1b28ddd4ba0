"""Settings of the recipes whose sparsity comes from an L1 penalty that warms up."""

from __future__ import annotations

from dataclasses import dataclass

from training.options import option, require_all


@dataclass(frozen=True)
class L1Settings:
    """Weight of the penalty and how it rises."""

    l1: float = option(5.0, "Weight of the sparsity penalty, for rows of mean norm sqrt(d).")
    l1_warm_up: float = option(0.05, "Share of the steps in which the penalty's weight rises from 0.")

    def __post_init__(self) -> None:
        require_all(
            [
                (self.l1 >= 0, f"l1 {self.l1}", "it must not be negative", "give for example 5"),
                (0 <= self.l1_warm_up <= 1, f"l1-warm-up {self.l1_warm_up}", "it is a share", "give for example 0.05"),
            ]
        )
