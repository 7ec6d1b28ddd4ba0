"""dictionary_learning: its trainers' own `update`."""

from __future__ import annotations

from functools import partial
from itertools import cycle
from typing import Any

import torch

from training_step.case import Case
from training_step.world import FROZEN, World

NAME = "dictionary_learning"
STEPS = 1_000_000


class DictionaryLearning:
    """One trainer; `update` does all of a step."""

    def __init__(self, module: str, name: str, settings: dict[str, Any], dead: bool, world: World) -> None:
        import importlib

        trainer_class = getattr(importlib.import_module(f"dictionary_learning.trainers.{module}"), name)
        common = {"steps": STEPS, "activation_dim": world.width, "dict_size": world.latents, "layer": 0, "lm_name": ""}
        self._trainer = trainer_class(**common, lr=FROZEN, seed=0, device="cpu", **settings)
        self._name, self._world, self._batches = name, world, cycle(world.batches)
        self._dead_j = world.dead_j if dead else None
        # Step 0 computes a geometric median and is no usual step.
        self._at = 1
        self._start(self._trainer.ae)

    @torch.no_grad()
    def _start(self, ae: Any) -> None:
        world = self._world
        if hasattr(ae, "W_enc"):
            ae.W_enc.copy_(world.weights_md.T)
            ae.W_dec.copy_(world.weights_md)
            ae.b_dec.copy_(world.mean_d)
            if self._name == "JumpReluTrainer":  # does not subtract b_dec
                ae.b_enc.copy_(-(world.weights_md @ world.mean_d))
                ae.threshold.fill_(world.cut)
            return
        ae.encoder.weight.copy_(world.weights_md)
        ae.decoder.weight.copy_(world.weights_md.T)
        if self._name == "GatedSAETrainer":
            ae.decoder_bias.copy_(world.mean_d)
            ae.gate_bias.fill_(-world.cut)
        elif "Standard" in self._name:
            ae.bias.copy_(world.mean_d)
            ae.encoder.bias.fill_(-world.cut)
        else:
            ae.b_dec.copy_(world.mean_d)

    def step(self) -> None:
        if self._dead_j is not None:
            self._trainer.num_tokens_since_fired[self._dead_j] = 10**9
        self._trainer.update(self._at, next(self._batches))
        self._at += 1

    @torch.no_grad()
    def l0(self) -> float:
        ae, x_nd = self._trainer.ae, self._world.batches[0]
        f_nm = ae.encode(x_nd, use_threshold=False) if "BatchTopK" in self._name else ae.encode(x_nd)
        return float((f_nm > 0).sum(1).float().mean())

    def close(self) -> None:
        """Nothing runs beside."""


def cases(k: int, dead: bool) -> list[Case]:
    groups = {"group_fractions": [1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32]}
    found = []
    for kind, module, name, settings in (
        ("topk", "top_k", "TopKTrainer", {"k": k}),
        ("batchtopk", "batch_top_k", "BatchTopKTrainer", {"k": k}),
        ("matryoshka", "matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer", {"k": k, **groups}),
    ):
        for note, on in (("auxK on", dead), ("auxK off", False)):
            found.append(Case(kind, NAME, note, partial(DictionaryLearning, module, name, settings, on)))
    for kind, module, name, settings, note in (
        ("jumprelu", "jumprelu", "JumpReluTrainer", {"target_l0": float(k)}, "quadratic"),
        ("relu", "standard", "StandardTrainer", {}, "2023"),
        ("relu", "standard", "StandardTrainerAprilUpdate", {}, "April 2024"),
        ("gated", "gdm", "GatedSAETrainer", {}, ""),
    ):
        found.append(Case(kind, NAME, note, partial(DictionaryLearning, module, name, settings, False)))
    return found
