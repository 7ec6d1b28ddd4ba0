"""ReLU with an L1 penalty, as in Anthropic's update of April 2024.

``f = relu(W_enc x + b_enc)``, ``x_hat = f W_dec + b_dec``. The loss of a row is the squared error plus lambda times the
sum of ``f · ||W_dec||``: the norms of the decoder's rows are free, and what counts is how much a latent writes.
https://transformer-circuits.pub/2024/april-update/index.html#training-saes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from monitor.sae import Dictionary, HookPoint
from training.architectures.architecture import StepContext, gradient
from training.architectures.elementwise import DenseGradients, Elementwise, Rule, Spread, Totals
from training.architectures.fold import TrainedWeights, folded
from training.architectures.l1_settings import L1Settings
from training.kernels import relu_cpu


@dataclass(frozen=True)
class ReluSettings(L1Settings):
    """Settings of a ReLU SAE by the recipe of April 2024."""


@dataclass(frozen=True)
class ReluRule(Rule):
    """Rectified; each latent's value costs `cost_m`."""

    cost_m: Tensor
    counted: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Active rows and sums of the latents, from the forward to the backward pass."""

    def forward(self, pre: Tensor, of: Spread) -> tuple[Tensor, ...]:
        del of
        return (pre.relu_(),)

    def backward(
        self, pre: Tensor, codes: tuple[Tensor, ...], slopes: tuple[Tensor, ...], of: Spread
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        del pre
        return slopes[0].add_(of(self.cost_m)).mul_(codes[0].sign()), codes[:1]

    def forward_rows(self, product_nm: Tensor, bias_m: Tensor) -> tuple[Tensor, ...]:
        if product_nm.device.type != "cpu":
            return super().forward_rows(product_nm, bias_m)
        self.counted.append(relu_cpu.rectify_(product_nm, bias_m))
        return (product_nm,)

    def backward_rows(self, pre_nm: Tensor, codes: tuple[Tensor, ...], slopes: tuple[Tensor, ...]) -> DenseGradients:
        if pre_nm.device.type != "cpu":
            return super().backward_rows(pre_nm, codes, slopes)
        count_m, sum_m = self.counted.pop()
        return DenseGradients(slopes[0], relu_cpu.slope_(slopes[0], codes[0], self.cost_m), count_m, (sum_m,))


class ReluSae(Elementwise[ReluSettings]):
    """Decoder rows start in random directions with norm 0.1, the encoder as their copy. `b_dec` starts as the mean and
    `b_enc` such that it is taken out of the input; the recipe's zeros are the same for rows of mean zero."""

    name: ClassVar[str] = "relu"
    title: ClassVar[str] = "ReLU with an L1 penalty on f·||W_dec|| (Anthropic, April 2024)"
    centred: ClassVar[bool] = False
    recommended: ClassVar[Mapping[str, float]] = {"learning_rate": 1e-3, "decay": 0.2}

    def initialise(self, sample_nd: Tensor, generator: torch.Generator) -> None:
        self.initialise_buffers()
        self.w_dec_md = self.random_directions(generator).mul_(0.1)
        self.w_enc_md = self.w_dec_md.clone()
        self.b_dec_d = sample_nd.mean(0)
        self.b_enc_m = -(self.w_enc_md @ self.b_dec_d)

    def parameters(self) -> dict[str, Tensor]:
        return {"w_enc": self.w_enc_md, "b_enc": self.b_enc_m, "w_dec": self.w_dec_md, "b_dec": self.b_dec_d}

    def bias_m(self) -> Tensor:
        return self.b_enc_m

    def rule(self, context: StepContext, rows: int, variance: float) -> ReluRule:
        del variance
        cost = self._weight(context) / rows
        return ReluRule(torch.zeros_like(self.b_enc_m), (1 / rows,), cost * self.w_dec_md.norm(dim=1))

    def finish(self, rule: Rule, totals: Totals, context: StepContext) -> Mapping[str, tuple[float, Tensor]]:
        (sum_m,) = totals.sums
        weight = self._weight(context)
        norm_m = self.w_dec_md.norm(dim=1)
        gradient(self.b_enc_m).copy_(totals.bias_m)
        pull_m = weight / totals.rows * sum_m / norm_m.clamp(min=1e-12)
        gradient(self.w_dec_md).addcmul_(self.w_dec_md, pull_m[:, None])
        return {"sparsity": (weight, (sum_m @ norm_m) / totals.rows)}

    def _weight(self, context: StepContext) -> float:
        warm = self.settings.l1_warm_up * context.steps
        return self.settings.l1 * (min(1.0, (context.step + 1) / warm) if warm >= 1 else 1.0)

    def export(self, scale: float, hook_point: HookPoint, model: str, metadata: dict[str, Any]) -> Dictionary:
        weights = TrainedWeights(self.w_enc_md, self.b_enc_m, self.w_dec_md, self.b_dec_d)
        metadata = {"training_architecture": self.name, "l1": self.settings.l1, **metadata}
        return folded(weights, scale, hook_point, model, metadata)
