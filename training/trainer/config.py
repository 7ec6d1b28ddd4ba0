"""Settings of a training run, common to all of its SAEs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.distributed.layouts import LAYOUTS
from training.options import Rule, option, require_all

INFERENCES = ("auto", "topk", "threshold")


@dataclass(frozen=True)
class TrainConfig:
    """How rows reach the SAEs, and what is kept of the run."""

    epochs: float = option(1.0, "Passes over the rows.")
    batch_rows: int = option(2048, "Rows per step.")
    stream: bool = option(
        False, "Train all SAEs at once on rows as the model gives them, without a cache of rows on disk."
    )
    buffer_rows: int = option(262_144, "Rows that a stream keeps in memory, in the cache's dtype, and shuffles.")
    layout: str = option(
        "data",
        "How processes that torchrun started share the work: data (each has other rows of a batch) or latents (each "
        "has other latents, for dictionaries that do not fit one device).",
    )
    inference: str = option(
        "auto",
        "How a TopK SAE chooses its latents at inference: topk, or one threshold fitted on held-out rows (needed for "
        "policies); auto is topk.",
    )
    threshold_tolerance: float = option(
        0.05, "Largest distance of the L0 at inference from k, as a share of k; beyond it nothing is written."
    )
    checkpoint_minutes: float = option(10.0, "Minutes between checkpoints; 0 writes none but on SIGTERM and Ctrl-C.")
    checkpoint_steps: int = option(0, "Steps between checkpoints; 0 goes by the clock alone.")
    log_steps: int = option(10, "Steps between two lines of the log.")
    tensorboard: bool = option(True, "Write TensorBoard event files beside logs/metrics.jsonl.")
    wandb: str = option("", "Weights & Biases project to log to; the package wandb must be installed.")

    def __post_init__(self) -> None:
        rules: list[Rule] = [
            (
                0 < self.epochs < math.inf,
                f"epochs {self.epochs}",
                "it must be above 0 and finite",
                "give for example 1",
            ),
            (self.batch_rows >= 16, f"batch-rows {self.batch_rows}", "it must be at least 16", "give for example 2048"),
            (
                self.buffer_rows >= self.batch_rows or not self.stream,
                f"buffer-rows {self.buffer_rows}",
                f"a batch has {self.batch_rows} rows",
                "give for example 262144",
            ),
            (
                self.layout in LAYOUTS,
                f"layout {self.layout!r}",
                f"it is {' or '.join(LAYOUTS)}",
                "choose one of them",
            ),
            (
                self.inference in INFERENCES,
                f"inference {self.inference!r}",
                f"it is {', '.join(INFERENCES)}",
                "choose one of them",
            ),
            (
                0 < self.threshold_tolerance < 1,
                f"threshold-tolerance {self.threshold_tolerance}",
                "it is a share of k",
                "give for example 0.05",
            ),
            (
                0 <= self.checkpoint_minutes < math.inf,
                f"checkpoint-minutes {self.checkpoint_minutes}",
                "it must not be negative",
                "give for example 10",
            ),
            (
                self.checkpoint_steps >= 0,
                f"checkpoint-steps {self.checkpoint_steps}",
                "it must not be negative",
                "give 0 to go by the clock alone",
            ),
            (self.log_steps >= 1, f"log-steps {self.log_steps}", "it must be at least 1", "give for example 10"),
        ]
        require_all(rules)

    def require_rows(self, rows: int) -> None:
        """Raises FeaturewatchError when `rows` give not even one batch."""
        require_all(
            [
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

    def steps(self, rows: int) -> int:
        """Steps of a run over `rows` rows an epoch; raises FeaturewatchError where there is none."""
        self.require_rows(rows)
        return int(self.epochs * rows) // self.batch_rows
