"""Featurewatch's own trainer."""

from __future__ import annotations

from functools import partial
from itertools import cycle
from typing import Any

from monitor.sae import HookPoint
from training.trainer.sae_config import SaeConfig, SaeOptions
from training.trainer.sae_training import SaeTraining
from training_step.case import Case
from training_step.world import FROZEN, World

NAME = "featurewatch"
STEPS = 1_000_000


class Ours:
    """`SaeTraining.step`: with clipping, counters, schedule and, where the recipe has it, the auxiliary loss."""

    def __init__(self, kind: str, settings: dict[str, Any], dead: bool, world: World) -> None:
        self._batches, self._dead_j = cycle(world.batches), world.dead_j if dead else None
        options = SaeOptions(architecture=kind, latents=world.latents, learning_rate=FROZEN)
        config = SaeConfig.of(HookPoint(0), options, **settings)
        self._training = SaeTraining(config, world.batches[0], scale=1.0, steps=STEPS, batch_rows=world.rows)
        sae: Any = self._training.sae
        for name, tensor in sae.parameters().items():
            if name in ("w_enc", "w_gate", "w_dec"):
                tensor.copy_(world.weights_md)
            elif name == "threshold":
                tensor.fill_(world.cut)
            elif name == "b_dec":
                tensor.copy_(world.mean_d)
            elif name == "b_gate":
                tensor.fill_(-world.cut)
            elif name == "b_enc" and kind == "relu":  # does not subtract b_dec
                tensor.copy_(-(world.weights_md @ world.mean_d) - world.cut)

    def step(self) -> None:
        if self._dead_j is not None:
            self._training._fired_at_m[self._dead_j] = -(10**12)
        self._training.step(next(self._batches))

    def l0(self) -> float:
        return float(self._training.figures["l0"])

    def close(self) -> None:
        """Nothing runs beside."""


def cases(k: int, dead: bool) -> list[Case]:
    per_kind: dict[str, tuple[dict[str, Any], str]] = {
        "topk": ({"k": k}, "auxK on"),
        "batchtopk": ({"k": k}, "auxK on"),
        "matryoshka": ({"k": k}, "auxK on"),
        "jumprelu": ({"target_l0": float(k)}, "quadratic"),
        "relu": ({}, "April 2024"),
        "gated": ({}, ""),
    }
    return [Case(kind, NAME, note, partial(Ours, kind, settings, dead)) for kind, (settings, note) in per_kind.items()]
