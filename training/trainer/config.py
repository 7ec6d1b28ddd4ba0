"""Settings of the SAE training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.options import Rule, option, require_all


@dataclass(frozen=True)
class TrainConfig:
    """A BatchTopK SAE (arXiv 2412.06410) with an auxiliary loss for dead latents (arXiv 2406.04093)."""

    expansion: int = option(8, "Latents as a multiple of the model's width.")
    k: int = option(32, "Active latents per token, on average over a batch.")
    epochs: float = option(1.0, "Passes over the cached rows.")
    batch_rows: int = option(2048, "Rows per step.")
    learning_rate: float = option(2e-3, "Peak learning rate of Adam.")
    warm_up: float = option(0.05, "Share of the steps in which the learning rate rises.")
    decay: float = option(0.4, "Share of the steps, at the end, in which it falls linearly to zero.")
    clip: float = option(1.0, "Largest gradient norm.")
    aux_weight: float = option(1 / 32, "Weight of the auxiliary loss that revives dead latents.")
    dead_share: float = option(0.05, "A latent is dead when it did not fire for this share of the run's rows.")
    threshold_tolerance: float = option(
        0.05, "Largest distance of the L0 at inference from k, as a share of k; beyond it nothing is written."
    )
    seed: int = option(0, "Seed of the initial weights and the row order.")

    def __post_init__(self) -> None:
        rules: list[Rule] = [
            (self.expansion >= 1, f"expansion {self.expansion}", "it must be at least 1", "give for example 8"),
            (self.k >= 1, f"k {self.k}", "it must be at least 1", "give for example 32"),
            (
                0 < self.epochs < math.inf,
                f"epochs {self.epochs}",
                "it must be above 0 and finite",
                "give for example 1",
            ),
            (self.batch_rows >= 16, f"batch-rows {self.batch_rows}", "it must be at least 16", "give for example 2048"),
            (
                self.learning_rate > 0,
                f"learning-rate {self.learning_rate}",
                "it must be above 0",
                "give for example 1e-3",
            ),
            (
                self.warm_up >= 0 and self.decay >= 0 and self.warm_up + self.decay <= 1,
                f"warm-up {self.warm_up} and decay {self.decay}",
                "they are shares of the steps that do not overlap",
                "give for example 0.05 and 0.4",
            ),
            (self.clip > 0, f"clip {self.clip}", "it must be above 0", "give for example 1"),
            (
                self.aux_weight >= 0,
                f"aux-weight {self.aux_weight}",
                "it must not be negative",
                "give for example 0.03125",
            ),
            (0 < self.dead_share <= 1, f"dead-share {self.dead_share}", "it is a share", "give for example 0.05"),
            (
                0 < self.threshold_tolerance < 1,
                f"threshold-tolerance {self.threshold_tolerance}",
                "it is a share of k",
                "give for example 0.05",
            ),
            (self.seed >= 0, f"seed {self.seed}", "it must not be negative", "give for example 0"),
        ]
        require_all(rules)

    def require_fits(self, width: int, rows: int) -> None:
        """Raises FeaturewatchError when the SAE has too few latents for k, or `rows` give not even one batch."""
        latents = self.expansion * width
        require_all(
            [
                (
                    self.k < latents,
                    f"k {self.k}",
                    f"the SAE has {latents} latents, of which only a few may be active",
                    f"choose a k far below, for example {max(1, latents // 128)}",
                ),
                (
                    int(self.epochs * rows) >= self.batch_rows,
                    f"training on {rows:,} rows",
                    f"{self.epochs:g} epochs of them are less than one batch of {self.batch_rows:,} rows",
                    "harvest more --tokens or use smaller --batch-rows",
                ),
                (
                    # Batches are not filled across epochs.
                    rows >= self.batch_rows,
                    f"training on {rows:,} rows",
                    f"they are less than one batch of {self.batch_rows:,} rows, however many epochs",
                    "harvest more --tokens or use smaller --batch-rows",
                ),
            ]
        )

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Linear warm-up, constant, linear decay to zero."""
        warm, fall = self.warm_up * steps, self.decay * steps
        rise = min(1.0, (step + 1) / warm) if warm >= 1 else 1.0
        drop = min(1.0, (steps - step) / fall) if fall >= 1 else 1.0
        return self.learning_rate * min(rise, drop)
