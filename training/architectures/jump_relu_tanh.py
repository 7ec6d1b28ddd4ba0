"""JumpReLU with a tanh penalty, as in Anthropic's update of January 2025.

``pre = W_enc x + b_enc``; f is pre where ``pre > exp(t)``, else 0; ``x_hat = f W_dec + b_dec``. The loss of a row is
the squared error, plus ``lambda_S · sum tanh(c · f · ||W_dec||)``, plus ``lambda_P · sum relu(exp(t) - pre) ·
||W_dec||``, which gives a gradient to latents that do not fire. The derivative of f by t is ``-exp(t) / bandwidth``
within half a bandwidth of the threshold; unlike in arXiv 2407.14435 the penalty's gradient goes on through f to all
parameters.
https://transformer-circuits.pub/2025/january-update/index.html#DL
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
from training.architectures.fold import TrainedWeights, decoder_norms, folded
from training.options import option, require_all

_SAMPLE_ROWS = 1024


@dataclass(frozen=True)
class JumpReluTanhSettings:
    """Settings of a JumpReLU SAE by the recipe of January 2025."""

    sparsity: float = option(10.0, "Weight of the tanh penalty at the end of the run; it rises linearly from 0.")
    pre_act: float = option(3e-6, "Weight of what draws silent pre-activations up to their thresholds.")
    tanh_scale: float = option(4.0, "How steeply the penalty saturates.")
    bandwidth: float = option(2.0, "Width of the thresholds' kernel.")
    log_threshold: float = option(0.1, "Initial logarithm of the thresholds.")
    start_l0: float = option(10_000.0, "Latents that are active per token at the start; at most half of them.")

    def __post_init__(self) -> None:
        require_all(
            [
                (self.sparsity >= 0, f"sparsity {self.sparsity}", "it must not be negative", "give for example 10"),
                (self.pre_act >= 0, f"pre-act {self.pre_act}", "it must not be negative", "give for example 3e-6"),
                (self.tanh_scale > 0, f"tanh-scale {self.tanh_scale}", "it must be above 0", "give for example 4"),
                (self.bandwidth > 0, f"bandwidth {self.bandwidth}", "it must be above 0", "give for example 2"),
                (self.start_l0 > 0, f"start-l0 {self.start_l0}", "it must be above 0", "give for example 10000"),
            ]
        )


@dataclass(frozen=True)
class TanhRule(Rule):
    """Zero up to the threshold; what a latent writes costs its tanh.

    Attributes:
        norm_m: of the decoder's rows.
        weight: of the penalty, per row of the batch.
        lift_m: gradient by a pre-activation below its threshold, which the pre-activation loss draws up.
    """

    threshold_m: Tensor
    bandwidth: float
    norm_m: Tensor
    scale: float
    weight: float
    lift_m: Tensor

    def forward(self, pre: Tensor, of: Spread) -> tuple[Tensor, ...]:
        return (pre * (pre > of(self.threshold_m)),)

    def backward(
        self, pre: Tensor, codes: tuple[Tensor, ...], slopes: tuple[Tensor, ...], of: Spread
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Sums: of the slopes in the kernel, of the penalty's slope by the decoder's norm, of the penalty, of f."""
        (f,) = codes
        active = f.sign()
        cost = (f * of(self.norm_m * self.scale)).tanh_()
        steep = (1 - cost.square()).mul_(self.weight * self.scale)
        by_norm = steep * f
        slope = slopes[0].add_(steep.mul_(of(self.norm_m)))
        near = (pre.sub_(of(self.threshold_m)).abs_() < 0.5 * self.bandwidth).to(pre.dtype)
        near_slope = near.mul_(slope)
        # All rows get the lift afterwards; the active ones give it back here.
        return slope.sub_(of(self.lift_m)).mul_(active), (near_slope, by_norm, cost, f)


class JumpReluTanhSae(Elementwise[JumpReluTanhSettings]):
    """Decoder entries start uniform in ±1/sqrt(d), the encoder as d/m times their copy, and `b_enc` such that each
    latent fires equally often on the sample. `b_dec` starts as the mean."""

    name: ClassVar[str] = "jumprelu-tanh"
    title: ClassVar[str] = "JumpReLU with a tanh penalty (Anthropic, January 2025)"
    centred: ClassVar[bool] = False
    recommended: ClassVar[Mapping[str, float]] = {"learning_rate": 1e-3, "decay": 0.2}

    def initialise(self, sample_nd: Tensor, generator: torch.Generator) -> None:
        self.initialise_buffers()
        d, m = self.shape.width, self.shape.latents
        whole_md = torch.rand(m, d, generator=generator).mul_(2).sub_(1).mul_(d**-0.5)
        self.w_dec_md = self.own_latents(whole_md).contiguous().to(self.device)
        self.w_enc_md = self.w_dec_md * (d / m)
        self.b_dec_d = sample_nd.mean(0)
        self.log_threshold_m = torch.full_like(self.w_dec_md[:, 0], self.settings.log_threshold)
        pre_nm = sample_nd[:_SAMPLE_ROWS] @ self.w_enc_md.T
        quiet = 1 - min(0.5, self.settings.start_l0 / m)
        rank = min(len(pre_nm), max(1, round(quiet * len(pre_nm))))
        self.b_enc_m = self.log_threshold_m.exp() - pre_nm.kthvalue(rank, dim=0).values

    def parameters(self) -> dict[str, Tensor]:
        return {
            "w_enc": self.w_enc_md,
            "b_enc": self.b_enc_m,
            "w_dec": self.w_dec_md,
            "b_dec": self.b_dec_d,
            "log_threshold": self.log_threshold_m,
        }

    def bias_m(self) -> Tensor:
        return self.b_enc_m

    def rule(self, context: StepContext, rows: int, variance: float) -> TanhRule:
        del variance
        threshold_m, norm_m = self.log_threshold_m.exp(), decoder_norms(self.w_dec_md)
        return TanhRule(
            floor_m=threshold_m - 0.5 * self.settings.bandwidth,
            error_weights=(1 / rows,),
            threshold_m=threshold_m,
            bandwidth=self.settings.bandwidth,
            norm_m=norm_m,
            scale=self.settings.tanh_scale,
            weight=self._weight(context) / rows,
            lift_m=-self.settings.pre_act / rows * norm_m,
        )

    def finish(self, rule: Rule, totals: Totals, context: StepContext) -> Mapping[str, tuple[float, Tensor]]:
        if not isinstance(rule, TanhRule):
            raise TypeError("the rule is of another architecture")
        near_slope_m, by_norm_m, cost_m, f_m = totals.sums
        sum_d = totals.input_nd.sum(0)
        quiet_m = totals.own_rows - totals.count_m
        # Sum over the silent rows of threshold - pre: over all rows, less that of the active ones, whose f is pre.
        short_m = rule.threshold_m * quiet_m - (self.w_enc_md @ sum_d + self.b_enc_m * totals.own_rows - f_m)
        gradient(self.w_enc_md).addr_(rule.lift_m, sum_d)
        totals.bias_m.add_(rule.lift_m, alpha=totals.own_rows)
        by_norm_m = by_norm_m + self.settings.pre_act / totals.rows * short_m
        gradient(self.w_dec_md).addcmul_(self.w_dec_md, (by_norm_m / rule.norm_m)[:, None])
        gradient(self.b_enc_m).copy_(totals.bias_m)
        d_log_m = near_slope_m / -rule.bandwidth - rule.lift_m * quiet_m
        torch.mul(d_log_m, rule.threshold_m, out=gradient(self.log_threshold_m))
        return {
            "sparsity": (self._weight(context), cost_m.sum() / totals.rows),
            "pre_act": (self.settings.pre_act, short_m @ rule.norm_m / totals.rows),
        }

    def _weight(self, context: StepContext) -> float:
        return self.settings.sparsity * (context.step + 1) / context.steps

    def export(self, scale: float, hook_point: HookPoint, model: str, metadata: dict[str, Any]) -> Dictionary:
        threshold_m = self.log_threshold_m.exp()
        weights = TrainedWeights(self.w_enc_md, self.b_enc_m, self.w_dec_md, self.b_dec_d, threshold_m)
        metadata = {"training_architecture": self.name, "sparsity": self.settings.sparsity, **metadata}
        return folded(weights, scale, hook_point, model, metadata)
