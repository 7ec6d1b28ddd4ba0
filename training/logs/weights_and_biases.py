"""Weights & Biases, for those who have it."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError


def require_wandb(project: str) -> None:
    """Raises FeaturewatchError when a project is named and the package is not there."""
    if project and importlib.util.find_spec("wandb") is None:
        raise FeaturewatchError(
            f"wandb {project!r}",
            "the Python package wandb is not installed",
            "install it (pip install wandb), or leave --wandb out: logs/metrics.jsonl and TensorBoard files are there",
        )


class WeightsAndBiases:
    """One run per SAE; an interrupted one goes on under the same id."""

    def __init__(self, project: str, name: str, settings: Mapping[str, Any], folder: Path, *, resumes: bool) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            name=name,
            id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
            config=dict(settings),
            dir=str(folder),
            resume="allow" if resumes else None,
            reinit="create_new",
        )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def finish(self, step: int, density_m: npt.NDArray[np.float32]) -> None:
        import wandb

        self._run.log({"log10_density": wandb.Histogram(np.log10(np.maximum(density_m, 1e-7)))}, step=step)

    def position(self) -> None:
        """The server keeps the steps; writing one again does nothing."""

    def close(self) -> None:
        self._run.finish()
