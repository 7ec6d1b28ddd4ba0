"""The hand-written step against autograd, on both sparse back ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.architectures.architecture import Shape, StepContext
from training.architectures.batch_top_k import BatchTopK, BatchTopKSettings
from training.kernels import sparse_cpu, sparse_torch


def _sae(seed: int, k: int = 4) -> BatchTopK:
    generator = torch.Generator().manual_seed(seed)
    sample_nd = torch.randn(1, 16, generator=generator)
    sae = BatchTopK(BatchTopKSettings(k, 1 / 32), Shape(16, 48), sample_nd, generator)
    # Encoder and decoder start as copies; apart, a gradient that mixes them up shows.
    sae.w_enc_md.add_(0.3 * torch.randn(48, 16, generator=generator))
    sae.b_enc_m.copy_(0.1 * torch.randn(48, generator=generator))
    return sae


def _autograd(sae: BatchTopK, x_nd: Tensor, dead_j: Tensor | None) -> tuple[float, float, list[Tensor]]:
    """The same loss, dense and differentiated by torch."""
    w_enc_md, b_enc_m, w_dec_md, b_dec_d = parameters = [
        p.detach().clone().requires_grad_() for p in sae.parameters().values()
    ]
    pre_nm = (x_nd - b_dec_d) @ w_enc_md.T + b_enc_m
    flat = torch.relu(pre_nm).flatten()
    kept = torch.topk(flat, sae.settings.k * len(x_nd))
    f_nm = torch.zeros_like(flat).scatter(0, kept.indices, kept.values).view_as(pre_nm)
    x_hat_nd = f_nm @ w_dec_md + b_dec_d
    variance = (x_nd - x_nd.mean(0)).square().sum()
    fvu = (x_hat_nd - x_nd).square().sum() / variance
    loss, aux = fvu, torch.zeros(())
    if dead_j is not None:
        left_nd = (x_nd - x_hat_nd).detach()
        f_nj = torch.relu(pre_nm[:, dead_j])
        k_aux = x_nd.shape[1] // 2
        if k_aux < len(dead_j):
            top = torch.topk(f_nj, k_aux, dim=1)
            f_nj = torch.zeros_like(f_nj).scatter(1, top.indices, top.values)
        aux = (f_nj @ w_dec_md[dead_j] - left_nd).square().sum() / (left_nd - left_nd.mean(0)).square().sum()
        loss = fvu + sae.settings.aux_weight * aux
    loss.backward()
    return float(fvu.detach()), float(aux.detach()), [p.grad for p in parameters if p.grad is not None]


@pytest.mark.parametrize("backend", [sparse_cpu, sparse_torch])
@pytest.mark.parametrize("dead", [None, [3, 7, 20], list(range(5, 40))])
def test_step_equals_autograd(monkeypatch: pytest.MonkeyPatch, backend: object, dead: list[int] | None) -> None:
    sae = _sae(seed=1)
    monkeypatch.setattr(sae, "_sparse", backend)
    x_nd = torch.randn(64, 16, generator=torch.Generator().manual_seed(2)) * 2 + 0.5
    dead_j = None if dead is None else torch.tensor(dead)
    for _ in range(2):  # the second step starts from the first one's cut as its hint
        loss = sae.step(x_nd, StepContext(0, 1, dead_j))
    fvu, aux, gradients = _autograd(sae, x_nd, dead_j)
    assert loss.losses["fvu"] == pytest.approx(fvu, rel=1e-5)
    assert loss.losses["aux"] == pytest.approx(aux, rel=1e-5)
    for parameter, expected in zip(sae.parameters().values(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hint", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("backend", [sparse_cpu, sparse_torch])
def test_batch_top_k_is_exact_whatever_the_hint(backend: object, hint: float) -> None:
    pre_nm = torch.randn(40, 30, generator=torch.Generator().manual_seed(3))
    codes = backend.batch_top_k(pre_nm, 120, hint)  # type: ignore[attr-defined]
    expected = torch.topk(pre_nm.flatten(), 120).values
    torch.testing.assert_close(codes.values_a.sort(descending=True).values, expected, rtol=0, atol=0)
    rows_a = torch.repeat_interleave(torch.arange(40), codes.row_starts_n1.diff())
    torch.testing.assert_close(pre_nm[rows_a, codes.latents_a], codes.values_a, rtol=0, atol=0)
    assert codes.cut == pytest.approx(float(expected[-1]))


@pytest.mark.parametrize("backend", [sparse_cpu, sparse_torch])
def test_batch_top_k_keeps_only_positive_values_and_breaks_ties(backend: object) -> None:
    few = backend.batch_top_k(torch.tensor([[1.0, -1.0], [-2.0, 3.0]]), 3)  # type: ignore[attr-defined]
    assert sorted(few.values_a.tolist()) == [1.0, 3.0]
    tied = backend.batch_top_k(torch.ones(4, 5), 7)  # type: ignore[attr-defined]
    assert len(tied.values_a) == 7


def test_decoder_keeps_unit_rows_and_its_gradient_is_tangential() -> None:
    sae = _sae(seed=4)
    sae.step(torch.randn(32, 16, generator=torch.Generator().manual_seed(5)), StepContext(0, 1))
    sae.before_update()
    assert sae.w_dec_md.grad is not None
    assert float((sae.w_dec_md.grad * sae.w_dec_md).sum(1).abs().max()) < 1e-6
    sae.w_dec_md.mul_(3.0)
    sae.after_update()
    torch.testing.assert_close(sae.w_dec_md.norm(dim=1), torch.ones(48))
