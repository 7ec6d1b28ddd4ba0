"""TopK, BatchTopK and Matryoshka: the hand-written step against autograd on both back ends, and the exports."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.architectures import auxiliary, top_k_family
from training.architectures.architecture import Shape, StepContext
from training.architectures.auxiliary import row_stride
from training.architectures.batch_top_k import BatchTopKSettings
from training.architectures.matryoshka import MatryoshkaSettings
from training.architectures.registry import architecture
from training.architectures.top_k import TopKSettings, geometric_median
from training.architectures.top_k_family import TopKFamily
from training.kernels import sparse_cpu, sparse_torch

FAMILY = ["topk", "batchtopk", "matryoshka"]
D, M, N, K = 16, 48, 64, 4
every = pytest.mark.parametrize("name", FAMILY)


def rows(seed: int) -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5


def sae_of(name: str, seed: int = 1, **settings: Any) -> TopKFamily[Any]:
    generator = torch.Generator().manual_seed(seed)
    kind, settings_kind = architecture(name)
    sae = kind(settings_kind(**{"k": K, "aux_share": 1.0, **settings}), Shape(D, M), rows(seed + 50), generator)
    assert isinstance(sae, TopKFamily)
    # Encoder and decoder start as copies; apart, a gradient that mixes them up shows.
    sae.w_enc_md.add_(0.3 * torch.randn(M, D, generator=generator))
    sae.b_enc_m.copy_(0.1 * torch.randn(M, generator=generator))
    return sae


def dense_codes(sae: TopKFamily[Any], pre_nm: Tensor) -> Tensor:
    f_nm = torch.relu(pre_nm)
    if sae.name == "topk":
        top = torch.topk(f_nm, K, dim=1)
        return torch.zeros_like(f_nm).scatter(1, top.indices, top.values)
    top = torch.topk(f_nm.flatten(), K * len(f_nm))
    return torch.zeros_like(f_nm).flatten().scatter(0, top.indices, top.values).view_as(f_nm)


def by_autograd(sae: TopKFamily[Any], x_nd: Tensor, dead_j: Tensor | None) -> tuple[dict[str, float], list[Tensor]]:
    """The same loss, dense and differentiated by torch."""
    w_enc_md, b_enc_m, w_dec_md, b_dec_d = parameters = [
        p.detach().clone().requires_grad_() for p in sae.parameters().values()
    ]
    pre_nm = (x_nd - b_dec_d) @ w_enc_md.T + b_enc_m
    f_nm = dense_codes(sae, pre_nm)
    variance = (x_nd - x_nd.mean(0)).square().sum()
    fvus = [((f_nm[:, :end] @ w_dec_md[:end] + b_dec_d - x_nd).square().sum() / variance) for end in sae.bounds]
    loss = torch.stack(fvus).mean()
    aux = torch.zeros(())
    if dead_j is not None:
        stride = row_stride(len(dead_j), M, len(x_nd), sae.settings.aux_share)
        left_nd = (x_nd - f_nm @ w_dec_md - b_dec_d).detach()[::stride]
        f_nj = torch.relu(pre_nm[::stride, dead_j])
        if len(dead_j) > D // 2:
            top = torch.topk(f_nj, D // 2, dim=1)
            f_nj = torch.zeros_like(f_nj).scatter(1, top.indices, top.values)
        aux = (f_nj @ w_dec_md[dead_j] - left_nd).square().sum() / (left_nd - left_nd.mean(0)).square().sum()
        loss = loss + sae.settings.aux_weight * aux
    loss.backward()
    figures = {"loss": loss, "fvu": fvus[-1], "aux": aux}
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return {key: float(value.detach()) for key, value in figures.items()}, gradients


@pytest.mark.parametrize("backend", [sparse_cpu, sparse_torch], ids=["cpu", "torch"])
@pytest.mark.parametrize("dead", [None, [3, 7, 20], list(range(5, 40))], ids=["alive", "few", "many"])
@pytest.mark.parametrize("share", [1.0, 0.2])
@every
def test_step_equals_autograd(
    monkeypatch: pytest.MonkeyPatch, name: str, dead: list[int] | None, share: float, backend: ModuleType
) -> None:
    sae = sae_of(name, aux_share=share)
    monkeypatch.setattr(auxiliary, "LEAST_ROWS", 4)
    monkeypatch.setattr(sae, "_sparse", backend)
    x_nd = rows(2)
    dead_j = None if dead is None else torch.tensor(dead)
    for _ in range(2):  # the second step starts from the first one's cut as its hint
        result = sae.step(x_nd, StepContext(0, 1, dead_j))
    losses, gradients = by_autograd(sae, x_nd, dead_j)
    assert result.losses == pytest.approx(losses, rel=1e-4)
    for (parameter, tensor), expected in zip(sae.parameters().items(), gradients, strict=True):
        assert tensor.grad is not None
        torch.testing.assert_close(
            tensor.grad, expected, rtol=1e-4, atol=1e-6, msg=lambda text, p=parameter: f"{p}: {text}"
        )
    f_nm = dense_codes(sae, (x_nd - sae.b_dec_d) @ sae.w_enc_md.T + sae.b_enc_m)
    assert result.fired_m.tolist() == (f_nm > 0).sum(0).tolist()
    assert result.l0 == pytest.approx(float((f_nm > 0).sum()) / N)


@every
def test_export_is_the_trained_sae(name: str) -> None:
    """The same latents, up to the scale, and the same reconstruction, on unscaled rows."""
    scale, x_nd = 2.5, rows(3)
    sae = sae_of(name)
    for step in range(3):
        sae.step(x_nd, StepContext(step, 3))
    dictionary = sae.export(scale, HookPoint(1), "toy", {"seed": 3})
    pre_nm = (x_nd - sae.b_dec_d) @ sae.w_enc_md.T + sae.b_enc_m
    f_nm = dense_codes(sae, pre_nm) if name == "topk" else pre_nm * (pre_nm > sae.threshold)
    raw_nd = (x_nd / scale).numpy()
    found_nm = torch.from_numpy(dictionary.encode(raw_nd))
    torch.testing.assert_close(found_nm, f_nm / scale, rtol=1e-4, atol=1e-5)
    expected_nd = (f_nm @ sae.w_dec_md + sae.b_dec_d) / scale
    torch.testing.assert_close(torch.from_numpy(dictionary.decode(found_nm.numpy())), expected_nd, rtol=1e-4, atol=1e-5)
    assert dictionary.metadata == {"training_architecture": name, "k": K, "seed": 3}


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka"])
def test_the_running_threshold_has_no_bias_towards_zero(name: str) -> None:
    """SAELens' running threshold holds 22 % of the true one after 49 steps; ours is right from the first."""
    sae, x_nd = sae_of(name), rows(4)
    assert sae.threshold == 0.0
    pre_nm = (x_nd - sae.b_dec_d) @ sae.w_enc_md.T + sae.b_enc_m
    cut = float(torch.topk(pre_nm.flatten(), K * N).values[-1])
    for step in range(3):
        sae.step(x_nd, StepContext(step, 3))
        assert sae.threshold == pytest.approx(cut, rel=1e-6)
    restored = sae_of(name)
    for key, buffer in sae.buffers().items():
        restored.buffers()[key].copy_(buffer)
    assert restored.threshold == sae.threshold


@every
def test_a_step_is_the_same_bit_for_bit_after_a_restore(name: str) -> None:
    """What an exact resume rests on: parameters and buffers are all the state there is."""
    sae, again = sae_of(name), sae_of(name, seed=9)
    sae.step(rows(5), StepContext(0, 2))
    for kept, fresh in ((sae.parameters(), again.parameters()), (sae.buffers(), again.buffers())):
        for key, tensor in kept.items():
            fresh[key].copy_(tensor)
    dead_j = torch.arange(0, M, 5)
    first, second = (one.step(rows(6), StepContext(1, 2, dead_j)) for one in (sae, again))
    assert first.losses == second.losses
    for left, right in zip(sae.parameters().values(), again.parameters().values(), strict=True):
        assert left.grad is not None
        assert right.grad is not None
        assert torch.equal(left.grad, right.grad)


def test_decoder_keeps_unit_rows_and_its_gradient_is_tangential() -> None:
    sae = sae_of("batchtopk")
    sae.step(rows(7), StepContext(0, 1))
    sae.before_update()
    assert sae.w_dec_md.grad is not None
    assert float((sae.w_dec_md.grad * sae.w_dec_md).sum(1).abs().max()) < 1e-6
    sae.w_dec_md.mul_(3.0)
    sae.after_update()
    torch.testing.assert_close(sae.w_dec_md.norm(dim=1), torch.ones(M))


@pytest.mark.parametrize(
    ("dead", "rows", "stride"),
    [(1, 4096, 1), (72, 4096, 1), (73, 4096, 2), (461, 4096, 8), (4608, 4096, 16), (461, 1024, 4), (461, 511, 1)],
)
def test_more_dead_latents_take_fewer_rows_but_never_few(dead: int, rows: int, stride: int) -> None:
    assert row_stride(dead, 4608, rows, 1 / 64) == stride


def test_geometric_median_is_not_moved_by_an_outlier() -> None:
    x_nd = torch.randn(2001, 3, generator=torch.Generator().manual_seed(8)) + torch.tensor([1.0, -2.0, 3.0])
    x_nd[0] = 1e6
    torch.testing.assert_close(geometric_median(x_nd), torch.tensor([1.0, -2.0, 3.0]), rtol=0, atol=0.1)
    sae = architecture("topk")[0](TopKSettings(4), Shape(3, 9), x_nd, torch.Generator())
    torch.testing.assert_close(sae.parameters()["b_dec"], geometric_median(x_nd))
    mean = architecture("topk")[0](TopKSettings(4, b_dec="mean"), Shape(3, 9), x_nd, torch.Generator())
    torch.testing.assert_close(mean.parameters()["b_dec"], x_nd.mean(0))


def test_groups_of_a_matryoshka() -> None:
    assert MatryoshkaSettings().ends(4608) == [144, 432, 1008, 2160, 4608]
    with pytest.raises(FeaturewatchError, match=r"groups '1/32.*' of 16 latents: every group must hold at least one"):
        MatryoshkaSettings().ends(8 * 2)


@pytest.mark.parametrize("groups", ["", "1/2,1/4", "1/2,x", "1/0,1", "-1/2,3/2"])
def test_groups_that_do_not_add_up_are_refused(groups: str) -> None:
    with pytest.raises(FeaturewatchError, match="positive shares of the latents that add up to 1"):
        MatryoshkaSettings(groups=groups)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k 0: it must be at least 1"),
        ({"aux_weight": -1.0}, "aux-weight -1.0"),
        ({"aux_share": 0.0}, "aux-share 0.0"),
        ({"encoder_dtype": "float16"}, "encoder-dtype 'float16': it is float32 or bfloat16"),
    ],
)
def test_settings_out_of_range_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        BatchTopKSettings(**settings)
    with pytest.raises(FeaturewatchError, match="b-dec 'median'"):
        TopKSettings(b_dec="median")


def test_a_bfloat16_encoder_is_refused_where_it_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_k_family, "forward_dtype", lambda name, device: torch.float32)
    with pytest.raises(FeaturewatchError, match=r"encoder-dtype bfloat16 on this cpu: it is emulated here"):
        sae_of("batchtopk", encoder_dtype="bfloat16")


def test_a_bfloat16_encoder_keeps_float32_masters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_k_family, "forward_dtype", lambda name, device: torch.bfloat16)
    exact, rounded = sae_of("topk"), sae_of("topk", encoder_dtype="bfloat16")
    results = [sae.step(rows(9), StepContext(0, 1)) for sae in (exact, rounded)]
    assert results[1].losses["fvu"] == pytest.approx(results[0].losses["fvu"], rel=0.02)
    assert results[1].losses["fvu"] != results[0].losses["fvu"]
    assert {tensor.dtype for tensor in rounded.parameters().values()} == {torch.float32}
