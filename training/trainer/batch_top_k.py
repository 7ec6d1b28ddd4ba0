"""One training step of a BatchTopK SAE with hand-written gradients.

``pre = W_enc (x - b_dec) + b_enc``; f keeps the k·n largest positive values of a batch of n rows; ``x_hat = f W_dec +
b_dec``. The loss is the fraction of variance unexplained plus the auxiliary loss of Gao et al. (arXiv 2406.04093): the
most active dead latents reconstruct what the living ones left over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.trainer import sparse_cpu, sparse_torch
from training.trainer.codes import SparseCodes


@dataclass(frozen=True)
class StepLoss:
    """Figures of one step.

    Attributes:
        fvu: squared error as a share of the batch's variance.
        aux: the auxiliary loss before its weight; 0 while no latent is dead.
        codes: the active latents.
    """

    fvu: float
    aux: float
    codes: SparseCodes


class BatchTopK:
    """Parameters, their gradients and the step that fills them.

    Args:
        w_dec_md: initial decoder rows; the encoder starts as their copy.
        b_dec_d: initial decoder bias, e.g. the mean of the data.
        k: active latents per row, on average over a batch.
        aux_weight: weight of the auxiliary loss.
    """

    def __init__(self, w_dec_md: Tensor, b_dec_d: Tensor, k: int, aux_weight: float) -> None:
        self.w_dec_md = (w_dec_md / w_dec_md.norm(dim=1, keepdim=True)).contiguous()
        self.w_enc_md = self.w_dec_md.clone()
        self.b_enc_m = torch.zeros_like(w_dec_md[:, 0])
        self.b_dec_d = b_dec_d.clone()
        self.k, self.aux_weight = k, aux_weight
        self._sparse = sparse_cpu if w_dec_md.device.type == "cpu" else sparse_torch
        self._cut = 0.0
        self._pre_nm = w_dec_md.new_empty(0, len(w_dec_md))
        for parameter in self.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def parameters(self) -> list[Tensor]:
        return [self.w_enc_md, self.b_enc_m, self.w_dec_md, self.b_dec_d]

    def pre_activations(self, centred_nd: Tensor) -> Tensor:
        """[n, m], in a buffer that the next call overwrites."""
        if len(self._pre_nm) != len(centred_nd):
            self._pre_nm = centred_nd.new_empty(len(centred_nd), len(self.w_enc_md))
        return torch.addmm(self.b_enc_m, centred_nd, self.w_enc_md.T, out=self._pre_nm)

    @torch.no_grad()
    def step(self, x_nd: Tensor, dead_j: Tensor | None = None) -> StepLoss:
        """Forward and backward; fills the gradients of all parameters.

        Args:
            x_nd: float32 [n, d].
            dead_j: indices of dead latents that take part in the auxiliary loss.
        """
        d_enc_md, d_benc_m, d_dec_md, d_bdec_d = (_grad(parameter) for parameter in self.parameters())
        centred_nd = x_nd - self.b_dec_d
        pre_nm = self.pre_activations(centred_nd)
        codes = self._sparse.batch_top_k(pre_nm, self.k * len(x_nd), self._cut)
        self._cut = codes.cut
        error_nd = self._sparse.decode(codes, self.w_dec_md).sub_(centred_nd)
        variance = (x_nd - x_nd.mean(0)).square_().sum()
        fvu = error_nd.square().sum() / variance
        grad_nd = error_nd * (2.0 / variance)
        d_benc_m.copy_(self._sparse.gradients(codes, grad_nd, centred_nd, self.w_dec_md, d_enc_md, d_dec_md))
        torch.sub(grad_nd.sum(0), self.w_enc_md.T @ d_benc_m, out=d_bdec_d)
        aux = 0.0
        if dead_j is not None and len(dead_j):
            aux = self._auxiliary(pre_nm, centred_nd, -error_nd, dead_j)
        return StepLoss(float(fvu), aux, codes)

    def _auxiliary(self, pre_nm: Tensor, centred_nd: Tensor, left_nd: Tensor, dead_j: Tensor) -> float:
        """Adds the gradients of the auxiliary loss; what is left over counts as a constant."""
        d_enc_md, d_benc_m, d_dec_md, d_bdec_d = (_grad(parameter) for parameter in self.parameters())
        f_nj = pre_nm[:, dead_j].clamp_(min=0)
        k_aux = centred_nd.shape[1] // 2
        if k_aux < len(dead_j):
            kept = torch.topk(f_nj, k_aux, dim=1, sorted=False)
            f_nj = torch.zeros_like(f_nj).scatter_(1, kept.indices, kept.values)
        w_dec_jd, w_enc_jd = self.w_dec_md[dead_j], self.w_enc_md[dead_j]
        error_nd = f_nj @ w_dec_jd - left_nd
        variance = (left_nd - left_nd.mean(0)).square().sum().clamp(min=1e-12)
        aux = error_nd.square().sum() / variance
        grad_nd = error_nd * (2.0 * self.aux_weight / variance)
        df_nj = (grad_nd @ w_dec_jd.T) * (f_nj > 0)
        d_bias_j = df_nj.sum(0)
        d_dec_md.index_add_(0, dead_j, f_nj.T @ grad_nd)
        d_enc_md.index_add_(0, dead_j, df_nj.T @ centred_nd)
        d_benc_m.index_add_(0, dead_j, d_bias_j)
        d_bdec_d.sub_(w_enc_jd.T @ d_bias_j)
        return float(aux)

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Takes out the part of the decoder's gradient that would only change the length of its rows."""
        d_dec_md = _grad(self.w_dec_md)
        d_dec_md.sub_((d_dec_md * self.w_dec_md).sum(1, keepdim=True) * self.w_dec_md)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        self.w_dec_md.div_(self.w_dec_md.norm(dim=1, keepdim=True))


def _grad(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("the parameter lost its gradient buffer")
    return parameter.grad
