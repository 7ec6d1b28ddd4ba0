"""sparsify's own trainer on rows that are there already: a model whose one layer gives them out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

BATCH_ROWS, CONTEXT = 4096, 256


class RowModel(nn.Module):
    """Token id i is row i; ``layers.0`` hands the rows on, which is where sparsify hooks itself in."""

    def __init__(self, rows_nd: npt.NDArray[Any], scale: float) -> None:
        super().__init__()
        self._rows_nd, self._scale = rows_nd, scale
        self.layers = nn.ModuleList([nn.Identity()])
        self.config = SimpleNamespace(num_hidden_layers=1)
        self.device = torch.device("cpu")
        self.dummy_inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.int64)}

    @property
    def base_model(self) -> RowModel:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        rows = self._rows_nd[input_ids.numpy().ravel()].astype(np.float32) * np.float32(self._scale)
        return self.layers[0](torch.from_numpy(rows).view(*input_ids.shape, -1))


def train(rows_nd: npt.NDArray[Any], latents: int, k: int, learning_rate: float | None, folder: Path) -> Path:
    """A TopK SAE on one pass over `rows_nd` with sparsify's default optimiser, stored by its own save function.

    The SAE is trained on rows scaled to a mean norm of sqrt(d) and so must be read (`input_scale` gives the factor).

    Args:
        learning_rate: None for sparsify's own choice.
    """
    from datasets import Dataset
    from sparsify import SparseCoderConfig, TrainConfig, Trainer

    scale = input_scale(rows_nd)
    whole = len(rows_nd) // BATCH_ROWS * BATCH_ROWS
    dataset = Dataset.from_dict({"input_ids": np.arange(whole).reshape(-1, CONTEXT)}).with_format("torch")
    config = TrainConfig(
        SparseCoderConfig(num_latents=latents, k=k),
        batch_size=BATCH_ROWS // CONTEXT,
        lr=learning_rate,
        auxk_alpha=1 / 32,
        dead_feature_threshold=whole // 10,
        hookpoints=["layers.0"],
        log_to_wandb=False,
        save_every=10**9,
        run_name="rows",
        save_dir=str(folder),
    )
    trainer = Trainer(config, dataset, RowModel(rows_nd, scale))
    trainer.fit()
    trainer.saes["layers.0"].save_to_disk(folder / "layers.0")
    return folder / "layers.0"


def input_scale(rows_nd: npt.NDArray[Any]) -> float:
    norms_n = np.linalg.norm(rows_nd[: 8 * BATCH_ROWS].astype(np.float32), axis=1)
    return float(np.sqrt(rows_nd.shape[1]) / norms_n.mean())
