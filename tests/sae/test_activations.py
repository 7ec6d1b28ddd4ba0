"""All rules of the normal form against their definitions, written out row by row in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normal_forms import normal_forms, random_form

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, GroupMax, JumpRelu, TopK, top_latents
from monitor.sidecar.evidence.encode_cuda import CudaEncoder

Doubles = npt.NDArray[np.float64]


def by_definition(sae: Dictionary, x_d: Doubles) -> tuple[Doubles, Doubles]:
    """Latents [m] and reconstruction [d] of one row."""
    shift, scale, row_d = 0.0, 1.0, x_d
    if sae.input_norm == "layer_norm":
        shift = x_d.sum() / x_d.size
        scale = float(np.sqrt(((x_d - shift) ** 2).sum() / (x_d.size - 1)))
        row_d = (x_d - shift) / (scale + 1e-5)
    elif sae.input_norm == "unit_norm":
        scale = float(np.sqrt((x_d**2).sum() / x_d.size))
        row_d = x_d / scale
    pre_m = [float(w @ row_d + b) for w, b in zip(sae.w_enc_md.astype(float), sae.b_enc_m.astype(float), strict=True)]
    keep = set(range(sae.num_latents))
    if isinstance(sae.activation, JumpRelu):
        keep = {m for m, pre in enumerate(pre_m) if pre > sae.activation.threshold_m[m]}
    elif isinstance(sae.activation, TopK):
        keep = set(sorted(keep, key=lambda m: (-pre_m[m], m))[: sae.activation.k])
    elif isinstance(sae.activation, GroupMax):
        size = sae.num_latents // sae.activation.groups
        keep = {max(range(g, g + size), key=lambda m: pre_m[m]) for g in range(0, sae.num_latents, size)}
    f_m = np.array([max(pre, 0.0) if m in keep else 0.0 for m, pre in enumerate(pre_m)])
    return f_m, (f_m @ sae.w_dec_md.astype(float) + sae.b_dec_d) * scale + shift


@settings(deadline=None, derandomize=True)
@given(sae=normal_forms(), n=st.integers(0, 5), seed=st.integers(0, 1000))
def test_codes_and_reconstructions_are_the_definition(sae: Dictionary, n: int, seed: int) -> None:
    x_nd = np.random.default_rng(seed).standard_normal((n, sae.width), np.float32) * 3 + 1
    f_nm, x_hat_nd = sae.encode(x_nd), sae.reconstruct(x_nd)
    assert (f_nm.shape, x_hat_nd.shape) == ((n, sae.num_latents), x_nd.shape)
    for row in range(n):
        f_m, x_hat_d = by_definition(sae, x_nd[row].astype(float))
        np.testing.assert_allclose(f_nm[row], f_m, atol=2e-4)
        np.testing.assert_allclose(x_hat_nd[row], x_hat_d, atol=2e-3)


@settings(deadline=None, derandomize=True)
@given(sae=normal_forms(), seed=st.integers(0, 1000))
def test_top_latents_and_the_torch_encoder_take_every_form(sae: Dictionary, seed: int) -> None:
    x_nd = np.random.default_rng(seed).standard_normal((9, sae.width), np.float32) * 2
    f_nm, left_nd = sae.encode(x_nd), x_nd - sae.reconstruct(x_nd)
    for found in (top_latents(sae, x_nd, 3), CudaEncoder("cpu").top_latents(sae, x_nd, 3)):
        k = min(3, sae.num_latents)
        np.testing.assert_allclose(found.activations_nk, np.sort(f_nm, axis=1)[:, ::-1][:, :k], atol=1e-4)
        np.testing.assert_array_equal(found.active_n, np.count_nonzero(f_nm, axis=1))
        np.testing.assert_allclose(found.error_n, (left_nd**2).sum(1) / (x_nd**2).sum(1), rtol=1e-3, atol=1e-4)


def test_equal_latents_are_kept_in_the_order_of_their_indices() -> None:
    sae = random_form(8, 2, TopK(3), "none", 0)
    sae.w_enc_md[:] = 0
    sae.b_enc_m[:] = [1, 2, 1, 1, 3, 1, -1, 0]
    assert np.flatnonzero(sae.encode(np.ones((1, 2), np.float32))[0]).tolist() == [0, 1, 4]
    grouped = random_form(8, 2, GroupMax(2), "none", 0)
    grouped.w_enc_md[:] = 0
    grouped.b_enc_m[:] = [1, 2, 2, 0, -1, -2, -3, -1]
    assert grouped.encode(np.ones((1, 2), np.float32)).tolist() == [[0, 2, 0, 0, 0, 0, 0, 0]]


def test_a_row_of_zeros_stays_finite_under_every_normalisation() -> None:
    for rule in ("layer_norm", "unit_norm"):
        sae = random_form(8, 3, TopK(2), rule, 1)
        assert np.isfinite(sae.reconstruct(np.zeros((1, 3), np.float32))).all()


def test_latents_alone_do_not_undo_a_normalisation() -> None:
    sae = random_form(8, 3, TopK(2), "layer_norm", 1)
    with pytest.raises(FeaturewatchError, match="do not tell the scale of the row"):
        sae.decode(np.zeros((1, 8), np.float32))


@pytest.mark.parametrize(
    ("activation", "says"),
    [
        (TopK(0), "k = 0.*between 1 and its 6"),
        (TopK(7), "k = 7"),
        (GroupMax(4), "4 groups.*equal size"),
        (GroupMax(0), "0 groups"),
        (JumpRelu(np.full(6, -1.0, np.float32)), "6 negative thresholds.*-1"),
        (JumpRelu(np.full(6, np.nan, np.float32)), "6 NaN"),
        (JumpRelu(np.zeros(5, np.float32)), "threshold"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(activation: TopK | GroupMax | JumpRelu, says: str) -> None:
    with pytest.raises(FeaturewatchError, match=says):
        random_form(6, 3, activation, "none", 0)


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(FeaturewatchError, match=r"'batch_norm'.*layer_norm"):
        random_form(6, 3, TopK(2), "batch_norm", 0)  # type: ignore[arg-type]
