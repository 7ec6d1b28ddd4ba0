"""What a training asks of a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from training.logs.json_lines import JsonLines

Floats = npt.NDArray[np.float32]


class Log(Protocol):
    """One SAE's figures over the steps."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of step `step`, counted from 1."""
        ...

    def finish(self, step: int, density_m: Floats) -> None:
        """The share of rows in which each latent fired, at the end."""
        ...

    def position(self) -> Any:
        """In JSON form: where the log stands. What it has so far is on the disk after this call."""
        ...

    def close(self) -> None: ...


def open_logs(
    folder: Path,
    *,
    name: str,
    position: Sequence[Any] | None,
    step: int,
    tensorboard: bool,
    wandb_project: str,
    settings: Mapping[str, Any],
) -> list[Log]:
    """The logs of one SAE in ``<folder>/logs``.

    Args:
        folder: of the SAE's run.
        name: of the SAE.
        position: of the same logs at `step`, to go on from there; None begins anew.
        step: steps that are done.
        tensorboard: write event files.
        wandb_project: empty for none.
        settings: of the SAE, for Weights & Biases.
    """
    place = folder / "logs"
    place.mkdir(parents=True, exist_ok=True)
    logs: list[Log] = [JsonLines(place / "metrics.jsonl", position[0] if position else 0)]
    if tensorboard:
        from training.logs.tensor_board import TensorBoard

        logs.append(TensorBoard(place, step + 1 if position else None))
    if wandb_project:
        from training.logs.weights_and_biases import WeightsAndBiases

        logs.append(WeightsAndBiases(wandb_project, name, settings, place, resumes=bool(position)))
    return logs
