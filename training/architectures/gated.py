"""Gated SAE (arXiv 2404.16014): one product decides which latents are active and, rescaled, how strongly.

``pi = W_gate (x - b_dec)``; a latent is active where ``pi + b_gate > 0``, with the value ``relu(exp(r_mag) pi +
b_mag)``. The loss of a row is the squared error, plus lambda times the sum of ``relu(pi + b_gate)``, plus the squared
error of these gate values through a frozen copy of the decoder, which trains the gate. The penalty does not shrink the
values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from monitor.sae import Dictionary, HookPoint
from training.architectures.architecture import StepContext, gradient
from training.architectures.elementwise import Elementwise, Rule, Spread, Totals
from training.architectures.fold import TrainedWeights, folded
from training.architectures.l1_settings import L1Settings
from training.kernels.unit_rows import normalise_rows_, remove_parallel_


@dataclass(frozen=True)
class GatedSettings(L1Settings):
    """Settings of a gated SAE. The penalty is on the gates."""


@dataclass(frozen=True)
class GatedRule(Rule):
    """Two codes: the values, and the gates for the loss through the frozen decoder."""

    b_gate_m: Tensor
    b_mag_m: Tensor
    gain_m: Tensor
    cost: float

    def forward(self, pre: Tensor, of: Spread) -> tuple[Tensor, ...]:
        gate = (pre + of(self.b_gate_m)).relu_()
        return (pre * of(self.gain_m)).add_(of(self.b_mag_m)).relu_().mul_(gate.sign()), gate

    def backward(
        self, pre: Tensor, codes: tuple[Tensor, ...], slopes: tuple[Tensor, ...], of: Spread
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Sums: of the slopes by the values, of these times pi, of the slopes by the gates, of the gates."""
        by_value = slopes[0].mul_(codes[0].sign())
        by_gate = slopes[1].add_(self.cost).mul_(codes[1].sign())
        return (by_value * of(self.gain_m)).add_(by_gate), (by_value, pre.mul_(by_value), by_gate, codes[1])


class GatedSae(Elementwise[GatedSettings]):
    """Decoder rows start in random directions and are kept at norm 1, the encoder starts as a copy of their direction;
    `b_dec` starts as the mean, the other parameters as 0."""

    name: ClassVar[str] = "gated"
    title: ClassVar[str] = "Gated SAE (arXiv 2404.16014)"
    recommended: ClassVar[Mapping[str, float]] = {"learning_rate": 1e-3, "beta1": 0.0}

    def initialise(self, sample_nd: Tensor, generator: torch.Generator) -> None:
        self.initialise_buffers()
        self.w_dec_md = self.random_directions(generator)
        self.w_enc_md = self.copied_encoder()
        self.b_gate_m = torch.zeros_like(self.w_dec_md[:, 0])
        self.b_mag_m = torch.zeros_like(self.b_gate_m)
        self.r_mag_m = torch.zeros_like(self.b_gate_m)
        self.b_dec_d = sample_nd.mean(0)

    def parameters(self) -> dict[str, Tensor]:
        return {
            "w_gate": self.w_enc_md,
            "b_gate": self.b_gate_m,
            "r_mag": self.r_mag_m,
            "b_mag": self.b_mag_m,
            "w_dec": self.w_dec_md,
            "b_dec": self.b_dec_d,
        }

    def bias_m(self) -> Tensor:
        return torch.zeros_like(self.b_gate_m)

    def rule(self, context: StepContext, rows: int, variance: float) -> GatedRule:
        del variance
        return GatedRule(
            floor_m=-self.b_gate_m,
            error_weights=(1 / rows, 1 / rows),
            b_gate_m=self.b_gate_m,
            b_mag_m=self.b_mag_m,
            gain_m=self.r_mag_m.exp(),
            cost=self._weight(context) / rows,
        )

    def finish(self, rule: Rule, totals: Totals, context: StepContext) -> Mapping[str, tuple[float, Tensor]]:
        by_value_m, by_gain_m, by_gate_m, gate_m = totals.sums
        gradient(self.b_mag_m).copy_(by_value_m)
        torch.mul(by_gain_m, self.r_mag_m.exp(), out=gradient(self.r_mag_m))
        gradient(self.b_gate_m).copy_(by_gate_m)
        return {"sparsity": (self._weight(context), gate_m.sum() / totals.rows)}

    def _weight(self, context: StepContext) -> float:
        warm = self.settings.l1_warm_up * context.steps
        return self.settings.l1 * (min(1.0, (context.step + 1) / warm) if warm >= 1 else 1.0)

    @torch.no_grad()
    def before_update(self) -> None:
        remove_parallel_(gradient(self.w_dec_md), self.w_dec_md)

    @torch.no_grad()
    def after_update(self) -> None:
        normalise_rows_(self.w_dec_md)

    def export(self, scale: float, hook_point: HookPoint, model: str, metadata: dict[str, Any]) -> Dictionary:
        """A JumpReLU of ``v = s pi + b_mag``, s > 0 being the gain: the gate is open where ``v > b_mag - s b_gate``."""
        gain_m = self.r_mag_m.exp()
        w_md = self.w_enc_md * gain_m[:, None]
        bias_m = self.b_mag_m - w_md @ self.b_dec_d
        threshold_m = (self.b_mag_m - gain_m * self.b_gate_m).clamp(min=0)
        weights = TrainedWeights(w_md, bias_m, self.w_dec_md, self.b_dec_d, threshold_m)
        metadata = {"training_architecture": self.name, "l1": self.settings.l1, **metadata}
        return folded(weights, scale, hook_point, model, metadata)
