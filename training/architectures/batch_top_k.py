"""BatchTopK (arXiv 2412.06410) with the auxiliary loss of Gao et al. (arXiv 2406.04093).

``pre = W_enc (x - b_dec) + b_enc``; f keeps the k·n largest positive values of a batch of n rows; ``x_hat = f W_dec +
b_dec``. The loss is the fraction of variance unexplained plus the auxiliary loss: the most active dead latents
reconstruct what the living ones left over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from monitor.sae import Dictionary, HookPoint, JumpRelu
from training.architectures.architecture import Architecture, StepContext, StepResult, as_numpy, gradient
from training.kernels import sparse_cpu, sparse_torch
from training.options import option, require_all


@dataclass(frozen=True)
class BatchTopKSettings:
    """Settings of a BatchTopK SAE."""

    k: int = option(32, "Active latents per token, on average over a batch.")
    aux_weight: float = option(1 / 32, "Weight of the auxiliary loss that revives dead latents.")

    def __post_init__(self) -> None:
        require_all(
            [
                (self.k >= 1, f"k {self.k}", "it must be at least 1", "give for example 32"),
                (
                    self.aux_weight >= 0,
                    f"aux-weight {self.aux_weight}",
                    "it must not be negative",
                    "give for example 0.03125",
                ),
            ]
        )


class BatchTopK(Architecture[BatchTopKSettings]):
    """The encoder starts as a copy of the decoder, whose rows are kept at norm 1; `b_dec` starts as the mean."""

    name: ClassVar[str] = "batchtopk"
    title: ClassVar[str] = "BatchTopK (arXiv 2412.06410) with an auxiliary loss for dead latents (arXiv 2406.04093)"
    needs_threshold: ClassVar[bool] = True

    def initialise(self, sample_nd: Tensor, generator: torch.Generator) -> None:
        self.target_l0 = self.settings.k
        self.w_dec_md = self.random_directions(generator)
        self.w_enc_md = self.w_dec_md.clone()
        self.b_enc_m = torch.zeros_like(self.w_dec_md[:, 0])
        self.b_dec_d = sample_nd.mean(0)
        self._sparse = sparse_cpu if self.device.type == "cpu" else sparse_torch
        self._cut = torch.zeros(())
        self._pre_nm = self.w_dec_md.new_empty(0, len(self.w_dec_md))

    def parameters(self) -> dict[str, Tensor]:
        return {"w_enc": self.w_enc_md, "b_enc": self.b_enc_m, "w_dec": self.w_dec_md, "b_dec": self.b_dec_d}

    def buffers(self) -> dict[str, Tensor]:
        return {"cut": self._cut}

    def pre_activations(self, centred_nd: Tensor) -> Tensor:
        """[n, m], in a buffer that the next call overwrites."""
        if len(self._pre_nm) != len(centred_nd):
            self._pre_nm = centred_nd.new_empty(len(centred_nd), len(self.w_enc_md))
        return torch.addmm(self.b_enc_m, centred_nd, self.w_enc_md.T, out=self._pre_nm)

    @torch.no_grad()
    def step(self, x_nd: Tensor, context: StepContext) -> StepResult:
        d_enc_md, d_benc_m, d_dec_md, d_bdec_d = (gradient(parameter) for parameter in self.parameters().values())
        centred_nd = x_nd - self.b_dec_d
        pre_nm = self.pre_activations(centred_nd)
        codes = self._sparse.batch_top_k(pre_nm, self.settings.k * len(x_nd), float(self._cut))
        self._cut.fill_(codes.cut)
        error_nd = self._sparse.decode(codes, self.w_dec_md).sub_(centred_nd)
        variance = (x_nd - x_nd.mean(0)).square_().sum()
        fvu = error_nd.square().sum() / variance
        grad_nd = error_nd * (2.0 / variance)
        d_benc_m.copy_(self._sparse.gradients(codes, grad_nd, centred_nd, self.w_dec_md, d_enc_md, d_dec_md))
        torch.sub(grad_nd.sum(0), self.w_enc_md.T @ d_benc_m, out=d_bdec_d)
        losses = {"loss": float(fvu), "fvu": float(fvu), "aux": 0.0}
        if context.dead_j is not None and len(context.dead_j):
            losses["aux"] = self._auxiliary(pre_nm, centred_nd, -error_nd, context.dead_j)
            losses["loss"] += self.settings.aux_weight * losses["aux"]
        return StepResult(
            losses=losses,
            l0=len(codes.values_a) / len(x_nd),
            fired_m=torch.bincount(codes.latents_a, minlength=len(self.w_enc_md)),
        )

    def _auxiliary(self, pre_nm: Tensor, centred_nd: Tensor, left_nd: Tensor, dead_j: Tensor) -> float:
        """Adds the gradients of the auxiliary loss; what is left over counts as a constant."""
        d_enc_md, d_benc_m, d_dec_md, d_bdec_d = (gradient(parameter) for parameter in self.parameters().values())
        f_nj = pre_nm[:, dead_j].clamp_(min=0)
        k_aux = centred_nd.shape[1] // 2
        if k_aux < len(dead_j):
            kept = torch.topk(f_nj, k_aux, dim=1, sorted=False)
            f_nj = torch.zeros_like(f_nj).scatter_(1, kept.indices, kept.values)
        w_dec_jd, w_enc_jd = self.w_dec_md[dead_j], self.w_enc_md[dead_j]
        error_nd = f_nj @ w_dec_jd - left_nd
        variance = (left_nd - left_nd.mean(0)).square().sum().clamp(min=1e-12)
        aux = error_nd.square().sum() / variance
        grad_nd = error_nd * (2.0 * self.settings.aux_weight / variance)
        df_nj = (grad_nd @ w_dec_jd.T) * (f_nj > 0)
        d_bias_j = df_nj.sum(0)
        d_dec_md.index_add_(0, dead_j, f_nj.T @ grad_nd)
        d_enc_md.index_add_(0, dead_j, df_nj.T @ centred_nd)
        d_benc_m.index_add_(0, dead_j, d_bias_j)
        d_bdec_d.sub_(w_enc_jd.T @ d_bias_j)
        return float(aux)

    @torch.no_grad()
    def before_update(self) -> None:
        """Takes out the part of the decoder's gradient that would only change the length of its rows."""
        d_dec_md = gradient(self.w_dec_md)
        d_dec_md.sub_((d_dec_md * self.w_dec_md).sum(1, keepdim=True) * self.w_dec_md)

    @torch.no_grad()
    def after_update(self) -> None:
        self.w_dec_md.div_(self.w_dec_md.norm(dim=1, keepdim=True))

    def export(self, scale: float, hook_point: HookPoint, model: str, metadata: dict[str, Any]) -> Dictionary:
        """The threshold is 0 until one is fitted."""
        return Dictionary(
            w_enc_md=as_numpy(self.w_enc_md),
            b_enc_m=as_numpy((self.b_enc_m - self.w_enc_md @ self.b_dec_d) / scale),
            w_dec_md=as_numpy(self.w_dec_md),
            b_dec_d=as_numpy(self.b_dec_d / scale),
            activation=JumpRelu(np.zeros(len(self.w_enc_md), np.float32)),
            hook_point=hook_point,
            model=model,
            metadata={"training_architecture": self.name, "k": self.settings.k, **metadata},
        )
