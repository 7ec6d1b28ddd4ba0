"""EleutherAI sparsify: its trainer's own loop, over a model whose one layer hands out the rows."""

from __future__ import annotations

import contextlib
import io
import tempfile
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training_step.case import Case
from training_step.turns import Turns
from training_step.world import FROZEN, World

NAME = "sparsify"
CONTEXT, STEPS = 256, 300


class RowModel(nn.Module):
    """Hands out the batch of this turn, whatever the token ids."""

    def __init__(self, turns: Turns, before: Any) -> None:
        super().__init__()
        self._turns, self._before = turns, before
        self.layers = nn.ModuleList([nn.Identity()])
        self.config = SimpleNamespace(num_hidden_layers=1)
        self.device = torch.device("cpu")
        self.dummy_inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.int64)}
        self.width = 0

    @property
    def base_model(self) -> RowModel:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        if not self._before():  # the trainer looks at shapes before it starts
            return self.layers[0](torch.zeros(*input_ids.shape, self.width))
        return self.layers[0](self._turns.batch().view(*input_ids.shape, -1))


class Sparsify:
    """`Trainer.fit`. It neither clips gradients nor keeps firing rates."""

    def __init__(self, optimizer: str, aux: float, dead: bool, world: World) -> None:
        from datasets import Dataset
        from sparsify import SparseCoderConfig, TrainConfig, Trainer

        self._dead_j, self._world, self._turns = world.dead_j if dead else None, world, Turns(world)
        self._folder = tempfile.TemporaryDirectory()
        self._trainer: Any = None
        model = RowModel(self._turns, self._mark)
        model.width = world.width
        ids = np.zeros((STEPS * world.rows // CONTEXT, CONTEXT), np.int64)
        config = TrainConfig(
            SparseCoderConfig(num_latents=world.latents, k=world.k),
            batch_size=world.rows // CONTEXT,
            lr=FROZEN,
            optimizer=optimizer,
            auxk_alpha=aux,
            hookpoints=["layers.0"],
            log_to_wandb=False,
            save_every=10**9,
            run_name="step",
            save_dir=self._folder.name,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = Trainer(config, Dataset.from_dict({"input_ids": ids}).with_format("torch"), model)
        sae = trainer.saes["layers.0"]
        with torch.no_grad():
            sae.encoder.weight.copy_(world.weights_md)
            sae.W_dec.copy_(world.weights_md)
        self._trainer = trainer
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self._turns.run(trainer.fit)

    def _mark(self) -> bool:
        """Whether the trainer is under way; marks the dead latents."""
        if self._trainer is None:
            return False
        if self._dead_j is not None:
            self._trainer.num_tokens_since_fired["layers.0"][self._dead_j] = 10**9
        return True

    def step(self) -> None:
        self._turns.step()

    @torch.no_grad()
    def l0(self) -> float:
        found = self._trainer.saes["layers.0"].encode(self._world.batches[0])
        return float((found.top_acts > 0).sum(1).float().mean())

    def close(self) -> None:
        self._turns.close()
        self._folder.cleanup()


def cases(k: int, dead: bool) -> list[Case]:
    del k
    return [
        Case("topk", NAME, "auxK off, signum (its default)", partial(Sparsify, "signum", 0.0, False)),
        Case("topk", NAME, "auxK off, adam", partial(Sparsify, "adam", 0.0, False)),
        Case("topk", NAME, "auxK on, signum", partial(Sparsify, "signum", 1 / 32, dead)),
    ]
