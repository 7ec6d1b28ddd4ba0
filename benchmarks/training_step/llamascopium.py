"""llamascopium: its trainer's own loop, in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from training_step.case import Case
from training_step.turns import Turns
from training_step.world import FROZEN, World

NAME = "llamascopium"
HOOK = "x"
# nnsight, which dictionary_learning imports, puts one in its place that fails for float32 on a CPU.
_AUTOCAST: Any = torch.autocast.__init__


class LlamaScopium:
    """`Trainer.fit`, metrics every 1,000 steps as by default."""

    def __init__(self, activation: str, settings: dict[str, Any], dead: bool, world: World) -> None:
        import llamascopium.trainer
        from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
        from llamascopium.trainer import Trainer, TrainerConfig
        from tqdm import tqdm

        llamascopium.trainer.tqdm = lambda **_: tqdm(disable=True)
        torch.autocast.__init__ = _AUTOCAST  # type: ignore[method-assign]
        self._dead_j, self._world, self._turns = world.dead_j if dead else None, world, Turns(world)
        self._folder = tempfile.TemporaryDirectory()
        self._sae = SparseAutoEncoder(
            SAEConfig(
                hook_point_in=HOOK,
                hook_point_out=HOOK,
                d_model=world.width,
                expansion_factor=world.latents / world.width,
                act_fn=activation,
                norm_activation="inference",
                top_k=world.k,
                device="cpu",
                dtype=torch.float32,
            )
        )
        with torch.no_grad():
            self._sae.W_E.copy_(world.weights_md.T)
            self._sae.W_D.copy_(world.weights_md)
            self._sae.b_D.copy_(world.mean_d)
            bias_m = -(world.weights_md @ world.mean_d)
            self._sae.b_E.copy_(bias_m - world.cut if activation == "relu" else bias_m)
            if activation == "jumprelu":
                self._sae.activation_function.log_jumprelu_threshold.fill_(world.cut).log_()
        self._trainer = Trainer(
            TrainerConfig(
                amp_dtype=torch.float32,
                lr=FROZEN,
                clip_grad_norm=1.0,
                initial_k=float(world.k),
                total_training_tokens=10**6 * world.rows,
                n_checkpoints=0,
                exp_result_path=self._folder.name,
                **settings,
            )
        )
        self._turns.run(lambda: self._trainer.fit(self._sae, self._stream()))

    def _stream(self) -> Iterator[dict[str, Tensor]]:
        tokens = torch.zeros(self._world.rows, dtype=torch.int64)
        while True:
            x_nd = self._turns.batch()
            # It asks for one batch before it starts to count.
            if self._dead_j is not None and self._trainer.is_dead is not None:
                self._trainer.tokens_since_last_activation[self._dead_j] = 10**9
                self._trainer.is_dead[self._dead_j] = True
            yield {HOOK: x_nd, "tokens": tokens, "mask": torch.ones_like(tokens)}

    def step(self) -> None:
        self._turns.step()

    @torch.no_grad()
    def l0(self) -> float:
        return float((self._sae.encode(self._world.batches[0]) > 0).sum(1).float().mean())

    def close(self) -> None:
        self._turns.close()
        self._folder.cleanup()


def cases(k: int, dead: bool) -> list[Case]:
    del k
    found = []
    for kind in ("topk", "batchtopk"):
        plain = {"l1_coefficient": None, "sparsity_loss_type": None}
        on = {**plain, "auxk_coefficient": 1 / 32}
        found.append(Case(kind, NAME, "auxK on", partial(LlamaScopium, kind, on, dead)))
        found.append(Case(kind, NAME, "auxK off", partial(LlamaScopium, kind, plain, False)))
    found.append(
        Case("jumprelu", NAME, "tanh", partial(LlamaScopium, "jumprelu", {"sparsity_loss_type": "tanh"}, False))
    )
    found.append(Case("relu", NAME, "", partial(LlamaScopium, "relu", {"sparsity_loss_type": "power"}, False)))
    return found
