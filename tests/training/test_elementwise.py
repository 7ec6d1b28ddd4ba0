"""The hand-written steps of ReLU, JumpReLU and Gated SAEs against autograd, both ways; their exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from elementwise_losses import loss_and_gradients
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint, JumpRelu, Relu
from training.architectures.architecture import Shape, StepContext, gradient
from training.architectures.elementwise import Elementwise
from training.architectures.registry import ARCHITECTURES, architecture

WIDTH, LATENTS, ROWS = 16, 48, 64
SETTINGS: dict[str, dict[str, float]] = {
    "relu": {"l1": 2.0},
    "relu-resample": {"l1": 2.0},
    "jumprelu": {"target_l0": 5.0, "bandwidth": 0.5, "revive_weight": 0.3},
    "jumprelu-tanh": {"sparsity": 2.0, "pre_act": 0.4, "bandwidth": 1.5},
    "gated": {"l1": 2.0},
}
DENSE, SPARSE = 0.0, 1.0


def _rows(seed: int, count: int = ROWS) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)) * 1.5 + 0.5


def _sae(name: str, **settings: float) -> Elementwise[Any]:
    """With every parameter away from its initial value, so that a gradient that mixes two up shows."""
    generator = torch.Generator().manual_seed(1)
    kind, options = architecture(name)
    sae = kind(options(**{**SETTINGS[name], **settings}), Shape(WIDTH, LATENTS), _rows(0, 256), generator)
    assert isinstance(sae, Elementwise)
    for parameter in sae.parameters().values():
        parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
        parameter.add_(0.05 * torch.rand(parameter.shape, generator=generator))
    return sae


@pytest.mark.parametrize("way", [DENSE, SPARSE])
@pytest.mark.parametrize("group_rows", [24, 512])
@pytest.mark.parametrize("name", SETTINGS)
def test_step_equals_autograd(monkeypatch: pytest.MonkeyPatch, name: str, way: float, group_rows: int) -> None:
    sae = _sae(name)
    monkeypatch.setattr(sae, "sparse_below", way)
    monkeypatch.setattr(sae, "group_rows", group_rows)
    x_nd, context = _rows(2), StepContext(3, 100, torch.tensor([2, 7, 30]))
    for _ in range(2):  # the second step finds the first one's gradients and buffers
        result = sae.step(x_nd, context)
    loss, f_nm, gradients = loss_and_gradients(sae, x_nd, context)
    assert result.losses["loss"] == pytest.approx(loss, rel=1e-4)
    assert 1 < result.l0 == pytest.approx(float((f_nm > 0).sum()) / ROWS)
    torch.testing.assert_close(result.fired_m, (f_nm > 0).sum(0))
    for parameter_name, parameter in sae.parameters().items():
        expected = gradients[parameter_name]
        assert float(expected.abs().max()) > 0
        torch.testing.assert_close(
            gradient(parameter), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()), msg=lambda text: text
        )


@pytest.mark.parametrize("name", SETTINGS)
def test_fvu_is_of_the_batch(name: str) -> None:
    sae, x_nd = _sae(name), _rows(2)
    fvu = sae.step(x_nd, StepContext(3, 100)).losses["fvu"]
    error_nd = sae.encode(x_nd) @ sae.w_dec_md + sae.b_dec_d - x_nd
    assert fvu == pytest.approx(float(error_nd.square().sum() / (x_nd - x_nd.mean(0)).square().sum()), rel=1e-4)


@pytest.mark.parametrize("name", SETTINGS)
def test_which_way_is_taken_goes_by_the_share_of_active_entries(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    sae, x_nd = _sae(name), _rows(2)
    taken: list[str] = []
    for method in ("_listed", "_dense_group"):
        original: Callable[..., Any] = getattr(sae, method)

        def noted(*args: Any, original: Callable[..., Any] = original, method: str = method) -> Any:
            taken.append(method)
            return original(*args)

        monkeypatch.setattr(sae, method, noted)
    monkeypatch.setattr(sae, "sparse_below", SPARSE)
    sae.step(x_nd, StepContext(3, 100))
    monkeypatch.setattr(sae, "sparse_below", DENSE)
    sae.step(x_nd, StepContext(3, 100))
    assert taken == ["_listed", "_dense_group"]


@pytest.mark.parametrize("way", [DENSE, SPARSE])
@pytest.mark.parametrize(("name", "bias"), [("relu", "b_enc"), ("jumprelu", "b_enc"), ("gated", "b_gate")])
def test_a_step_without_active_latents_explains_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, bias: str, way: float
) -> None:
    sae, x_nd = _sae(name), _rows(2)
    monkeypatch.setattr(sae, "sparse_below", way)
    sae.parameters()[bias].sub_(1000.0)
    sae.b_dec_d.copy_(x_nd.mean(0))
    result = sae.step(x_nd, StepContext(3, 100))
    assert result.losses["fvu"] == pytest.approx(1.0, rel=1e-4)
    assert result.l0 == 0
    assert int(result.fired_m.sum()) == 0
    assert float(gradient(sae.w_enc_md).abs().max()) == 0
    constant = sae.step(sae.b_dec_d.expand(8, WIDTH).contiguous(), StepContext(3, 100))
    assert constant.losses["fvu"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_export_is_the_trained_sae(name: str) -> None:
    """The same latents, in the input's units and times their decoder norm, and the same reconstruction."""
    sae, scale = _sae(name), 1.7
    rows_nd = _rows(3, 300)
    dictionary = sae.export(scale, HookPoint(2), "toy", {"rows": 5})
    f_nm = sae.encode(rows_nd * scale)
    expected_nm = (f_nm * sae.w_dec_md.norm(dim=1) / scale).numpy()
    latents_nm = dictionary.encode(rows_nd.numpy())
    np.testing.assert_allclose(latents_nm, expected_nm, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(latents_nm > 0, expected_nm > 0)
    expected_nd = ((f_nm @ sae.w_dec_md + sae.b_dec_d) / scale).numpy()
    np.testing.assert_allclose(dictionary.decode(latents_nm), expected_nd, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(dictionary.w_dec_md, axis=1), 1.0, rtol=1e-5)
    assert isinstance(dictionary.activation, Relu if name.startswith("relu") else JumpRelu)
    assert dictionary.metadata["training_architecture"] == name
    assert dictionary.metadata["rows"] == 5
    assert 0.02 < (latents_nm > 0).mean() < 0.9


def test_a_gate_that_is_wider_than_its_value_folds_exactly() -> None:
    """Where b_mag < s·b_gate the open gate lets zero values through, and the other way round it cuts values off."""
    sae = _sae("gated")
    b_gate_m, b_mag_m = sae.parameters()["b_gate"], sae.parameters()["b_mag"]
    b_gate_m[: LATENTS // 2], b_mag_m[: LATENTS // 2] = 0.8, -0.8
    b_gate_m[LATENTS // 2 :], b_mag_m[LATENTS // 2 :] = -0.8, 0.8
    rows_nd = _rows(4, 500)
    sae.after_update()
    latents_nm = sae.export(1.0, HookPoint(2), "toy", {}).encode(rows_nd.numpy())
    np.testing.assert_allclose(latents_nm, sae.encode(rows_nd).numpy(), rtol=1e-4, atol=1e-5)
    assert latents_nm[:, LATENTS // 2 :][latents_nm[:, LATENTS // 2 :] > 0].min() > 0.8


@pytest.mark.parametrize("name", ["relu-resample", "jumprelu", "gated"])
def test_decoder_rows_keep_norm_1(name: str) -> None:
    sae = _sae(name)
    sae.after_update()
    torch.testing.assert_close(sae.w_dec_md.norm(dim=1), torch.ones(LATENTS))
    sae.step(_rows(2), StepContext(3, 100))
    sae.before_update()
    assert float((gradient(sae.w_dec_md) * sae.w_dec_md).sum(1).abs().max()) < 1e-5


def test_thresholds_of_jumprelu_start_at_the_wanted_l0_and_stay_above_zero() -> None:
    kind, options = architecture("jumprelu")
    rows_nd = _rows(5, 2000)
    sae = kind(options(target_l0=4.0, start_l0=2.0), Shape(WIDTH, LATENTS), rows_nd, torch.Generator().manual_seed(0))
    assert isinstance(sae, Elementwise)
    assert float((sae.encode(rows_nd) > 0).sum()) / 2000 == pytest.approx(8.0, rel=0.1)
    sae.parameters()["threshold"].sub_(100.0)
    sae.after_update()
    assert float(sae.parameters()["threshold"].min()) == 0.0


def test_latents_of_the_tanh_recipe_start_equally_often_active() -> None:
    kind, options = architecture("jumprelu-tanh")
    rows_nd = _rows(6, 1000)
    sae = kind(options(start_l0=12.0), Shape(WIDTH, LATENTS), rows_nd, torch.Generator().manual_seed(0))
    assert isinstance(sae, Elementwise)
    share_m = (sae.encode(rows_nd) > 0).float().mean(0)
    torch.testing.assert_close(share_m, torch.full((LATENTS,), 0.25), rtol=0, atol=0.01)


def test_resampled_latents_point_at_badly_reconstructed_rows() -> None:
    sae = _sae("relu-resample")
    sae.after_update()
    x_nd = 0.01 * _rows(7, 400) + sae.b_dec_d
    x_nd[:3] += 8.0 * torch.eye(WIDTH)[:3]  # owns nearly all of the squared loss
    dead_j = torch.arange(20, LATENTS)
    before = {name: parameter.clone() for name, parameter in sae.parameters().items()}
    names = sae.revive(x_nd, dead_j, torch.Generator().manual_seed(3))
    assert sorted(names) == ["b_enc", "w_dec", "w_enc"]
    closest_j = (sae.w_dec_md[dead_j] @ (x_nd[:3] - sae.b_dec_d).T / 8.0).max(1).values
    assert float(closest_j.min()) > 0.99
    living = before["w_enc"][:20].norm(dim=1).mean()
    torch.testing.assert_close(sae.w_enc_md[dead_j].norm(dim=1), torch.full((len(dead_j),), 0.2 * float(living)))
    torch.testing.assert_close(sae.parameters()["b_enc"][dead_j], torch.zeros(len(dead_j)))
    for name in names:
        torch.testing.assert_close(sae.parameters()[name][:20], before[name][:20], rtol=0, atol=0)
    sae.revive(x_nd, torch.arange(0), torch.Generator().manual_seed(3))
    torch.testing.assert_close(sae.w_dec_md[:20], before["w_dec"][:20], rtol=0, atol=0)


def test_no_latent_is_resampled_to_a_row_without_direction() -> None:
    sae = _sae("relu-resample")
    x_nd = sae.b_dec_d.repeat(50, 1)
    sae.parameters()["b_enc"].fill_(1.0)  # all rows have a loss, and only the last one a direction
    dead_j, before = torch.arange(20, LATENTS), sae.w_dec_md.clone()
    assert sae.revive(x_nd, dead_j, torch.Generator().manual_seed(3)) == []
    assert torch.equal(sae.w_dec_md, before)
    x_nd[-1, 2] += 1.0
    assert sae.revive(x_nd, dead_j, torch.Generator().manual_seed(3))
    sae.after_update()
    torch.testing.assert_close(sae.w_dec_md[dead_j], torch.eye(WIDTH)[2].expand(len(dead_j), WIDTH))


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("relu", "l1", -1.0),
        ("relu", "l1_warm_up", 1.5),
        ("relu-resample", "l1", -1.0),
        ("jumprelu", "target_l0", 0.0),
        ("jumprelu", "bandwidth", 0.0),
        ("jumprelu", "penalty", 0.0),
        ("jumprelu", "start_l0", 0.0),
        ("jumprelu-tanh", "sparsity", -1.0),
        ("jumprelu-tanh", "bandwidth", -2.0),
        ("gated", "l1", -5.0),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, setting: str, value: float) -> None:
    with pytest.raises(FeaturewatchError, match=rf"{setting.replace('_', '-')} {value}: "):
        ARCHITECTURES[name][1](**{setting: value})
