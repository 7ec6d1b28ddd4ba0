"""JumpReLU with a quadratic penalty around a target L0, the recipe of Gemma Scope 2.

``pre = W_enc (x - b_dec) + b_enc``; f is pre where ``pre > threshold``, else 0; ``x_hat = f W_dec + b_dec``. The loss
is the fraction of variance unexplained plus ``penalty · (L0 / target - 1)²``, L0 being the mean over the batch. (Gemma
Scope 2 is described with a quadratic L0 penalty; this form, whose weight does not depend on the target, is that of
dictionary_learning 0.1; SAELens 6.54 takes ``2/target · (L0 - target)²`` per row.) Gradients of steps go through a
rectangle kernel, to the thresholds only (arXiv 2407.14435).
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
from training.kernels.unit_rows import normalise_rows_, remove_parallel_
from training.options import option, require_all

_SAMPLE_ROWS = 1024


@dataclass(frozen=True)
class JumpReluSettings:
    """Settings of a JumpReLU SAE with a target L0."""

    target_l0: float = option(32.0, "Active latents per token, on average over a batch.")
    penalty: float = option(3.0, "Weight of (L0 / target - 1)², where the error is the variance unexplained.")
    penalty_warm_up: float = option(0.1, "Share of the steps in which the penalty's weight rises from 0.")
    start_l0: float = option(1.5, "L0 of the initial thresholds, as a multiple of the target.")
    bandwidth: float = option(0.3, "Width of the kernel, as a share of the pre-activations' spread at the start.")
    revive_weight: float = option(1e-3, "Weight of what draws dead latents' pre-activations up to their thresholds.")

    def __post_init__(self) -> None:
        require_all(
            [
                (self.target_l0 > 0, f"target-l0 {self.target_l0}", "it must be above 0", "give for example 32"),
                (self.penalty > 0, f"penalty {self.penalty}", "it must be above 0", "give for example 3"),
                (
                    0 <= self.penalty_warm_up <= 1,
                    f"penalty-warm-up {self.penalty_warm_up}",
                    "it is a share",
                    "give for example 0.1",
                ),
                (self.start_l0 > 0, f"start-l0 {self.start_l0}", "it must be above 0", "give for example 1.5"),
                (self.bandwidth > 0, f"bandwidth {self.bandwidth}", "it must be above 0", "give for example 0.3"),
                (
                    self.revive_weight >= 0,
                    f"revive-weight {self.revive_weight}",
                    "it must not be negative",
                    "give for example 0.001",
                ),
            ]
        )


@dataclass(frozen=True)
class JumpRule(Rule):
    """Zero up to the threshold; the kernel looks half a bandwidth to both sides."""

    threshold_m: Tensor
    bandwidth: float

    def forward(self, pre: Tensor, of: Spread) -> tuple[Tensor, ...]:
        return (pre * (pre > of(self.threshold_m)),)

    def backward(
        self, pre: Tensor, codes: tuple[Tensor, ...], slopes: tuple[Tensor, ...], of: Spread
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Sums: of the slopes in the kernel, and of the entries in it."""
        near = (pre.sub_(of(self.threshold_m)).abs_() < 0.5 * self.bandwidth).to(pre.dtype)
        near_slope = near * slopes[0]
        return slopes[0].mul_(codes[0].sign()), (near_slope, near)


class JumpReluSae(Elementwise[JumpReluSettings]):
    """The encoder starts as a copy of the decoder, whose rows are kept at norm 1; `b_dec` starts as the mean, the
    thresholds where the sample's L0 is a multiple of the target. Thresholds are stored in units of `threshold_unit`, so
    that Adam, whose steps do not depend on a gradient's size, moves them in proportion to the pre-activations."""

    name: ClassVar[str] = "jumprelu"
    title: ClassVar[str] = "JumpReLU with a quadratic penalty around a target L0 (Gemma Scope 2)"

    def initialise(self, sample_nd: Tensor, generator: torch.Generator) -> None:
        self.initialise_buffers()
        self.w_dec_md = self.random_directions(generator)
        self.w_enc_md = self.w_dec_md.clone()
        self.b_enc_m = torch.zeros_like(self.w_dec_md[:, 0])
        self.b_dec_d = sample_nd.mean(0)
        pre_nm = (sample_nd[:_SAMPLE_ROWS] - self.b_dec_d) @ self.w_enc_md.T
        wanted = round(self.settings.start_l0 * self.settings.target_l0 * len(pre_nm)) * self.ranks.row_shares
        cut = self.ranks.batch_cut(pre_nm[pre_nm > 0], max(1, wanted))
        self.threshold_m = torch.full_like(self.b_enc_m, float(cut))
        square = self.ranks.sum_latents_(pre_nm.square().sum()) / (len(pre_nm) * self.shape.latents)
        self._bandwidth = torch.as_tensor(self.settings.bandwidth * float(square.sqrt()))

    def parameters(self) -> dict[str, Tensor]:
        return {
            "w_enc": self.w_enc_md,
            "b_enc": self.b_enc_m,
            "w_dec": self.w_dec_md,
            "b_dec": self.b_dec_d,
            "threshold": self.threshold_m,
        }

    def buffers(self) -> dict[str, Tensor]:
        return {"bandwidth": self._bandwidth}

    def bias_m(self) -> Tensor:
        return self.b_enc_m

    def rule(self, context: StepContext, rows: int, variance: float) -> JumpRule:
        del context, rows
        bandwidth = float(self._bandwidth)
        return JumpRule(self.threshold_m - 0.5 * bandwidth, (1 / variance,), self.threshold_m, bandwidth)

    def finish(self, rule: Rule, totals: Totals, context: StepContext) -> Mapping[str, tuple[float, Tensor]]:
        near_slope_m, near_m = totals.sums
        bandwidth = float(self._bandwidth)
        warm = self.settings.penalty_warm_up * context.steps
        weight = self.settings.penalty * (min(1.0, (context.step + 1) / warm) if warm >= 1 else 1.0)
        excess = totals.l0 / self.settings.target_l0 - 1
        by_l0 = 2 * weight * excess / self.settings.target_l0
        d_threshold_m = gradient(self.threshold_m)
        torch.mul(near_slope_m, self.threshold_m / -bandwidth, out=d_threshold_m)
        d_threshold_m.sub_(near_m, alpha=by_l0 / (bandwidth * totals.rows))
        shares = self.ranks.row_shares * self.ranks.latent_shares
        parts = {"sparsity": (weight, totals.bias_m.new_tensor(excess * excess / shares))}
        if context.dead_j is not None:
            parts["aux"] = (self.settings.revive_weight, self._revive(totals, context.dead_j))
        gradient(self.b_enc_m).copy_(totals.bias_m)
        return parts

    def _revive(self, totals: Totals, dead_j: Tensor) -> Tensor:
        """Adds the gradients of the mean over rows of ``sum relu(threshold - pre)`` over the dead latents."""
        pre_nj = totals.input_nd @ self.w_enc_md[dead_j].T + self.b_enc_m[dead_j]
        below_nj = (self.threshold_m[dead_j] - pre_nj).clamp_(min=0)
        loss = below_nj.sum() / totals.rows
        slope_nj = below_nj.sign_().mul_(self.settings.revive_weight / totals.rows)
        slope_j = slope_nj.sum(0)
        gradient(self.threshold_m).index_add_(0, dead_j, slope_j)
        gradient(self.w_enc_md).index_add_(0, dead_j, slope_nj.T @ totals.input_nd, alpha=-1)
        totals.bias_m.index_add_(0, dead_j, slope_j, alpha=-1)
        return loss

    @torch.no_grad()
    def before_update(self) -> None:
        remove_parallel_(gradient(self.w_dec_md), self.w_dec_md)

    @torch.no_grad()
    def after_update(self) -> None:
        normalise_rows_(self.w_dec_md)
        self.threshold_m.clamp_(min=0)

    def export(self, scale: float, hook_point: HookPoint, model: str, metadata: dict[str, Any]) -> Dictionary:
        bias_m = self.b_enc_m - self.w_enc_md @ self.b_dec_d
        weights = TrainedWeights(self.w_enc_md, bias_m, self.w_dec_md, self.b_dec_d, self.threshold_m)
        metadata = {"training_architecture": self.name, "target_l0": self.settings.target_l0, **metadata}
        return folded(weights, scale, hook_point, model, metadata)
