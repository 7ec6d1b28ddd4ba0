"""SAELens: its trainer's own training step."""

from __future__ import annotations

from functools import partial
from itertools import cycle
from typing import Any

import torch

from training_step.case import Case
from training_step.world import FROZEN, World

NAME = "SAELens"
STEPS = 1_000_000


class SaeLens:
    """`SAETrainer._train_step`: Adam, clipping at 1, counters. The start-up of `fit` only estimates norms."""

    def __init__(self, kind: str, settings: dict[str, Any], dead: bool, world: World) -> None:
        import sae_lens
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        if kind == "MatryoshkaBatchTopK":
            ends = [round(world.latents * share) for share in (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1)]
            settings = {**settings, "matryoshka_widths": ends}
        config = getattr(sae_lens, f"{kind}TrainingSAEConfig")(
            d_in=world.width, d_sae=world.latents, device="cpu", normalize_activations="none", **settings
        )
        sae = getattr(sae_lens, f"{kind}TrainingSAE")(config)
        with torch.no_grad():
            sae.W_enc.copy_(world.weights_md.T)
            sae.W_dec.copy_(world.weights_md)
            sae.b_dec.copy_(world.mean_d)
            if kind == "JumpReLU":
                sae.threshold.fill_(world.cut)
            elif kind == "Standard":
                sae.b_enc.fill_(-world.cut)
            elif kind == "Gated":
                sae.b_gate.fill_(-world.cut)
        self._trainer = SAETrainer(
            cfg=SAETrainerConfig(
                total_training_samples=STEPS * world.rows,
                train_batch_size_samples=world.rows,
                lr=FROZEN,
                lr_end=FROZEN / 10,
                dead_feature_window=1000,
                logger=LoggingConfig(log_to_wandb=False),
            ),
            sae=sae,
            data_provider=iter(()),
        )
        self._batches, self._dead_j, self._world = cycle(world.batches), world.dead_j if dead else None, world

    def step(self) -> None:
        trainer = self._trainer
        if self._dead_j is not None:
            trainer.n_forward_passes_since_fired[self._dead_j] = 10**6
        trainer._train_step(sae=trainer.sae, sae_in=next(self._batches))
        trainer.n_training_steps += 1

    @torch.no_grad()
    def l0(self) -> float:
        return float((self._trainer.sae.encode(self._world.batches[0]) > 0).sum(1).float().mean())

    def close(self) -> None:
        """Nothing runs beside."""


def cases(k: int, dead: bool) -> list[Case]:
    found = []
    for kind, name in (("topk", "TopK"), ("batchtopk", "BatchTopK"), ("matryoshka", "MatryoshkaBatchTopK")):
        aux = {"use_matryoshka_aux_loss": True} if kind == "matryoshka" else {}
        found.append(Case(kind, NAME, "auxK on", partial(SaeLens, name, {"k": k, **aux}, dead)))
        found.append(Case(kind, NAME, "auxK off", partial(SaeLens, name, {"k": k, "aux_loss_coefficient": 0.0}, False)))
    quadratic = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": float(k)}
    found.append(Case("jumprelu", NAME, "quadratic", partial(SaeLens, "JumpReLU", quadratic, False)))
    found.append(Case("relu", NAME, "", partial(SaeLens, "Standard", {}, False)))
    found.append(Case("gated", NAME, "", partial(SaeLens, "Gated", {}, False)))
    return found
