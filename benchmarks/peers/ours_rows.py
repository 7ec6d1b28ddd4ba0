"""Featurewatch's trainer as a library, on rows that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from monitor.sae import HookPoint, save_saelens
from training.trainer.export import to_dictionary
from training.trainer.rows import ArrayRows
from training.trainer.sae_config import SaeConfig, SaeOptions
from training.trainer.train import train_saes_on

BATCH_ROWS = 2048


def train(rows_nd: npt.NDArray[Any], latents: int, k: int, hook_point: HookPoint, folder: Path) -> Path:
    """A BatchTopK SAE on one pass over `rows_nd` at the default settings (batches of 2,048); its threshold is the
    training's own estimate."""
    config = SaeConfig.of(hook_point, SaeOptions(latents=latents), k=k)
    trained = train_saes_on(ArrayRows({hook_point: rows_nd}, BATCH_ROWS), {"ours": config})
    return save_saelens(to_dictionary(trained["ours"], "as harvested"), folder)
