"""ReLU with an L1 penalty and resampling of dead latents, as in Towards Monosemanticity (Anthropic, 2023).

``f = relu(W_enc (x - b_dec) + b_enc)``, ``x_hat = f W_dec + b_dec`` with decoder rows of norm 1. The loss of a row is
the squared error plus lambda times the sum of f. At four points of the first half of the run, latents that have been
silent for a while start anew in the direction of inputs that are reconstructed badly.
https://transformer-circuits.pub/2023/monosemantic-features/index.html#appendix-autoencoder
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from monitor.sae import Dictionary, HookPoint
from training.architectures.architecture import StepContext, gradient
from training.architectures.elementwise import Elementwise, Rule, Totals
from training.architectures.fold import TrainedWeights, folded
from training.architectures.relu import ReluRule
from training.kernels.unit_rows import normalise_rows_, remove_parallel_
from training.options import option, require_all

_LIVING_SHARE = 0.2


@dataclass(frozen=True)
class ReluResampleSettings:
    """Settings of a ReLU SAE by the recipe of 2023."""

    l1: float = option(5.0, "Weight of the sparsity penalty, for rows of mean norm sqrt(d).")

    def __post_init__(self) -> None:
        require_all([(self.l1 >= 0, f"l1 {self.l1}", "it must not be negative", "give for example 5")])


class ReluResampleSae(Elementwise[ReluResampleSettings]):
    """Decoder rows start in random directions, the encoder as a copy of their direction; `b_dec` starts as the mean
    (the paper's geometric median differs little once outliers are left out)."""

    name: ClassVar[str] = "relu-resample"
    title: ClassVar[str] = "ReLU with an L1 penalty and resampling (Towards Monosemanticity, Anthropic, 2023)"
    recommended: ClassVar[Mapping[str, float]] = {"learning_rate": 1e-3}
    revive_shares: ClassVar[tuple[float, ...]] = (0.125, 0.25, 0.375, 0.5)
    """After steps 25,000, 50,000, 75,000 and 100,000 of the paper's 200,000."""
    revive_window: ClassVar[float] = 0.0625
    """12,500 of 200,000 steps."""

    def initialise(self, sample_nd: Tensor, generator: torch.Generator) -> None:
        self.initialise_buffers()
        self.w_dec_md = self.random_directions(generator)
        self.w_enc_md = self.copied_encoder()
        self.b_enc_m = torch.zeros_like(self.w_dec_md[:, 0])
        self.b_dec_d = sample_nd.mean(0)

    def parameters(self) -> dict[str, Tensor]:
        return {"w_enc": self.w_enc_md, "b_enc": self.b_enc_m, "w_dec": self.w_dec_md, "b_dec": self.b_dec_d}

    def bias_m(self) -> Tensor:
        return self.b_enc_m

    def rule(self, context: StepContext, rows: int, variance: float) -> ReluRule:
        del context, variance
        zero_m = torch.zeros_like(self.b_enc_m)
        return ReluRule(zero_m, (1 / rows,), zero_m + self.settings.l1 / rows)

    def finish(self, rule: Rule, totals: Totals, context: StepContext) -> Mapping[str, tuple[float, Tensor]]:
        gradient(self.b_enc_m).copy_(totals.bias_m)
        return {"sparsity": (self.settings.l1, totals.sums[0].sum() / totals.rows)}

    @torch.no_grad()
    def before_update(self) -> None:
        remove_parallel_(gradient(self.w_dec_md), self.w_dec_md)

    @torch.no_grad()
    def after_update(self) -> None:
        normalise_rows_(self.w_dec_md)

    @torch.no_grad()
    def revive(self, x_nd: Tensor, dead_j: Tensor, generator: torch.Generator) -> list[str]:
        """An input is drawn with probability proportional to its squared loss.

        As a unit vector it gives the direction of the decoder's row and of the encoder's, which gets a fifth of the
        living rows' mean norm; the bias becomes 0. Nothing changes where each input is `b_dec` itself or has no loss.
        """
        loss_n, centred_nd = self._row_losses(x_nd)
        # A row at b_dec has no direction.
        chance_n = loss_n.square() * (centred_nd != 0).any(1)
        if not chance_n.any():
            return []
        picks_m = torch.multinomial(chance_n.cpu(), self.shape.latents, replacement=True, generator=generator)
        norm_m = self.w_enc_md.norm(dim=1)
        living_m = torch.ones_like(norm_m)
        living_m[dead_j] = 0.0
        total, count = self.ranks.sum_latents_(torch.stack([norm_m @ living_m, living_m.sum()])).tolist()
        direction_jd = centred_nd[self.own_latents(picks_m)[dead_j.cpu()].to(self.device)]
        direction_jd = direction_jd / direction_jd.norm(dim=1, keepdim=True).clamp(min=1e-12)
        self.w_dec_md[dead_j] = direction_jd
        self.w_enc_md[dead_j] = direction_jd * (_LIVING_SHARE * total / max(count, 1.0))
        self.b_enc_m[dead_j] = 0.0
        return ["w_enc", "b_enc", "w_dec"]

    def _row_losses(self, x_nd: Tensor) -> tuple[Tensor, Tensor]:
        centred_nd = x_nd - self.b_dec_d
        f_nm = self.encode(x_nd)
        error_nd = self.ranks.sum_latents_(f_nm @ self.w_dec_md) - centred_nd
        return error_nd.square().sum(1) + self.settings.l1 * self.ranks.sum_latents_(f_nm.sum(1)), centred_nd

    def export(self, scale: float, hook_point: HookPoint, model: str, metadata: dict[str, Any]) -> Dictionary:
        bias_m = self.b_enc_m - self.w_enc_md @ self.b_dec_d
        weights = TrainedWeights(self.w_enc_md, bias_m, self.w_dec_md, self.b_dec_d)
        metadata = {"training_architecture": self.name, "l1": self.settings.l1, **metadata}
        return folded(weights, scale, hook_point, model, metadata)
