"""SAELens' own trainer on rows that are there already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BATCH_ROWS = 4096


def train(rows_nd: npt.NDArray[Any], latents: int, k: int, learning_rate: float, folder: Path) -> Path:
    """A BatchTopK SAE on one pass over `rows_nd`, stored by SAELens' own export.

    Input norms are brought to sqrt(d) (`expected_average_only_in`), which SAELens leaves off by default and which these
    rows need; the dead window is a tenth of the run, the learning rate warms up over a twentieth and falls over a
    fifth.
    """
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    width = rows_nd.shape[1]
    steps = len(rows_nd) // BATCH_ROWS
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=width, d_sae=latents, k=k, normalize_activations="expected_average_only_in", device="cpu"
        )
    )
    config = SAETrainerConfig(
        total_training_samples=steps * BATCH_ROWS,
        train_batch_size_samples=BATCH_ROWS,
        lr=learning_rate,
        lr_end=learning_rate / 10,
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        dead_feature_window=max(steps // 10, 1),
        n_batches_for_norm_estimate=8,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trained = SAETrainer(cfg=config, sae=sae, data_provider=_batches(rows_nd)).fit()
    trained.save_inference_model(folder)
    return folder


def _batches(rows_nd: npt.NDArray[Any]) -> Iterator[Tensor]:
    """Without end: the norm is estimated on batches of its own."""
    while True:
        for start in range(0, len(rows_nd) - BATCH_ROWS + 1, BATCH_ROWS):
            yield torch.from_numpy(rows_nd[start : start + BATCH_ROWS].astype(np.float32))
