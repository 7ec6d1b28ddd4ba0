"""The losses of the elementwise SAEs, written densely for torch to differentiate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.architectures.architecture import StepContext
from training.architectures.elementwise import Elementwise
from training.architectures.gated import GatedSae
from training.architectures.jump_relu import JumpReluSae
from training.architectures.jump_relu_tanh import JumpReluTanhSae
from training.architectures.relu import ReluSae
from training.architectures.relu_resample import ReluResampleSae


class _Jump(torch.autograd.Function):
    """``x · [x > theta]``; the derivative by theta goes through a rectangle kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(x, theta)
        ctx.bandwidth = bandwidth
        return x * (x > theta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, theta = ctx.saved_tensors
        kernel = ((x - theta).abs() < ctx.bandwidth / 2).float()
        return grad * (x > theta), (-theta / ctx.bandwidth * kernel * grad).sum(0), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(x, theta)
        ctx.bandwidth = bandwidth
        return (x > theta).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        x, theta = ctx.saved_tensors
        kernel = ((x - theta).abs() < ctx.bandwidth / 2).float()
        return None, (-kernel / ctx.bandwidth * grad).sum(0), None


class _ExpAsPrinted(torch.autograd.Function):
    """The January update writes the derivative of JumpReLU by t = log(theta) as -exp(t)/bandwidth, without the chain
    rule's further factor exp(t)."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        del ctx
        return t.exp()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        del ctx
        return grad


def loss_and_gradients(
    sae: Elementwise[Any], x_nd: Tensor, context: StepContext
) -> tuple[float, Tensor, dict[str, Tensor]]:
    """Loss, latents and the gradient of every parameter."""
    p = {name: value.detach().clone().requires_grad_() for name, value in sae.parameters().items()}
    loss, f_nm = _LOSSES[type(sae)](sae, p, x_nd, context)
    loss.backward()
    gradients = {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in p.items()}
    return float(loss.detach()), f_nm.detach(), gradients


def _error(f_nm: Tensor, p: dict[str, Tensor], x_nd: Tensor) -> Tensor:
    return (f_nm @ p["w_dec"] + p["b_dec"] - x_nd).square().sum()


def _warm(share: float, context: StepContext) -> float:
    return min(1.0, (context.step + 1) / (share * context.steps)) if share * context.steps >= 1 else 1.0


def _relu(sae: ReluSae, p: dict[str, Tensor], x_nd: Tensor, context: StepContext) -> tuple[Tensor, Tensor]:
    f_nm = torch.relu(x_nd @ p["w_enc"].T + p["b_enc"])
    weight = sae.settings.l1 * _warm(sae.settings.l1_warm_up, context)
    return (_error(f_nm, p, x_nd) + weight * (f_nm * p["w_dec"].norm(dim=1)).sum()) / len(x_nd), f_nm


def _resample(sae: ReluResampleSae, p: dict[str, Tensor], x_nd: Tensor, context: StepContext) -> tuple[Tensor, Tensor]:
    del context
    f_nm = torch.relu((x_nd - p["b_dec"]) @ p["w_enc"].T + p["b_enc"])
    return (_error(f_nm, p, x_nd) + sae.settings.l1 * f_nm.sum()) / len(x_nd), f_nm


def _jump(sae: JumpReluSae, p: dict[str, Tensor], x_nd: Tensor, context: StepContext) -> tuple[Tensor, Tensor]:
    bandwidth = float(sae.buffers()["bandwidth"])
    theta_m = p["threshold"]
    pre_nm = (x_nd - p["b_dec"]) @ p["w_enc"].T + p["b_enc"]
    f_nm = _Jump.apply(pre_nm, theta_m, bandwidth)
    variance = (x_nd - x_nd.mean(0)).square().sum()
    l0 = _Step.apply(pre_nm, theta_m, bandwidth).sum() / len(x_nd)
    weight = sae.settings.penalty * _warm(sae.settings.penalty_warm_up, context)
    loss = _error(f_nm, p, x_nd) / variance + weight * (l0 / sae.settings.target_l0 - 1).square()
    if context.dead_j is not None:
        below_nj = torch.relu(theta_m - pre_nm)[:, context.dead_j]
        loss = loss + sae.settings.revive_weight * below_nj.sum() / len(x_nd)
    return loss, f_nm


def _tanh(sae: JumpReluTanhSae, p: dict[str, Tensor], x_nd: Tensor, context: StepContext) -> tuple[Tensor, Tensor]:
    s = sae.settings
    norm_m = p["w_dec"].norm(dim=1)
    pre_nm = x_nd @ p["w_enc"].T + p["b_enc"]
    f_nm = _Jump.apply(pre_nm, _ExpAsPrinted.apply(p["log_threshold"]), s.bandwidth)
    weight = s.sparsity * (context.step + 1) / context.steps
    sparsity = torch.tanh(s.tanh_scale * f_nm * norm_m).sum()
    pre_act = (torch.relu(p["log_threshold"].exp() - pre_nm) * norm_m).sum()
    return (_error(f_nm, p, x_nd) + weight * sparsity + s.pre_act * pre_act) / len(x_nd), f_nm


def _gated(sae: GatedSae, p: dict[str, Tensor], x_nd: Tensor, context: StepContext) -> tuple[Tensor, Tensor]:
    pi_nm = (x_nd - p["b_dec"]) @ p["w_gate"].T
    gate_nm = torch.relu(pi_nm + p["b_gate"])
    f_nm = (gate_nm > 0) * torch.relu(pi_nm * p["r_mag"].exp() + p["b_mag"])
    frozen = (gate_nm @ p["w_dec"].detach() + p["b_dec"].detach() - x_nd).square().sum()
    weight = sae.settings.l1 * _warm(sae.settings.l1_warm_up, context)
    return (_error(f_nm, p, x_nd) + weight * gate_nm.sum() + frozen) / len(x_nd), f_nm


_LOSSES: dict[type, Any] = {
    ReluSae: _relu,
    ReluResampleSae: _resample,
    JumpReluSae: _jump,
    JumpReluTanhSae: _tanh,
    GatedSae: _gated,
}
