"""The strongest latents of a whole dictionary, against the same in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.sae import Dictionary, HookPoint, JumpRelu, Relu, full_encode, top_latents


def dictionary(m: int, d: int, seed: int, *, jump: bool) -> Dictionary:
    rng = np.random.default_rng(seed)
    return Dictionary(
        w_enc_md=rng.standard_normal((m, d), np.float32),
        b_enc_m=rng.standard_normal(m, np.float32),
        w_dec_md=rng.standard_normal((m, d), np.float32),
        b_dec_d=rng.standard_normal(d, np.float32),
        activation=JumpRelu(rng.random(m, np.float32) * 2) if jump else Relu(),
        hook_point=HookPoint(0),
        model="tiny",
    )


def dense(sae: Dictionary, x_nd: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Latents [n, m] and error shares [n] by the definition of the normal form, in float64."""
    x = x_nd.astype(np.float64)
    pre_nm = x @ sae.w_enc_md.astype(np.float64).T + sae.b_enc_m
    threshold = sae.activation.threshold_m if isinstance(sae.activation, JumpRelu) else 0.0
    f_nm = np.where((pre_nm > 0) & (pre_nm > threshold), pre_nm, 0.0)
    left_nd = x - (f_nm @ sae.w_dec_md.astype(np.float64) + sae.b_dec_d)
    return f_nm, (left_nd**2).sum(axis=1) / (x**2).sum(axis=1)


@settings(deadline=None)
@given(
    m=st.integers(1, 40),
    d=st.integers(1, 9),
    n=st.integers(0, 12),
    jump=st.booleans(),
    top=st.integers(1, 20),
    seed=st.integers(0, 10_000),
)
def test_it_is_the_dense_computation(*, m: int, d: int, n: int, jump: bool, top: int, seed: int) -> None:
    sae = dictionary(m, d, seed, jump=jump)
    x_nd = np.random.default_rng(seed + 1).standard_normal((n, d), np.float32) * 3
    found = top_latents(sae, x_nd, top)
    f_nm, error_n = dense(sae, x_nd)
    k = min(m, top)
    assert found.latents_nk.shape == found.activations_nk.shape == (n, k)
    np.testing.assert_allclose(found.activations_nk, np.sort(f_nm, axis=1)[:, ::-1][:, :k], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.activations_nk, np.take_along_axis(f_nm, found.latents_nk, 1), atol=1e-4)
    assert all(len(set(row)) == k for row in found.latents_nk.tolist())
    # A latent within rounding of its threshold may fall to either side.
    assert (np.abs(found.active_n - np.count_nonzero(f_nm, axis=1)) <= 1).all()
    np.testing.assert_allclose(found.error_n, error_n, rtol=1e-3, atol=1e-4)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = dictionary(50, 6, 1, jump=True)
    x_nd = np.random.default_rng(2).standard_normal((33, 6), np.float32)
    whole = top_latents(sae, x_nd)
    monkeypatch.setattr(full_encode, "CHUNK_BYTES", 4 * 50 * 7)
    parts = top_latents(sae, x_nd)
    np.testing.assert_array_equal(parts.latents_nk, whole.latents_nk)
    np.testing.assert_allclose(parts.activations_nk, whole.activations_nk, rtol=1e-5)
    np.testing.assert_array_equal(parts.active_n, whole.active_n)


def test_equal_latents_come_in_the_order_of_their_indices() -> None:
    sae = dictionary(8, 2, 3, jump=False)
    sae.w_enc_md[:] = 0
    sae.b_enc_m[:] = [0, 1, 2, 1, -1, 1, 1, 1]
    found = top_latents(sae, np.ones((1, 2), np.float32), 4)
    assert found.latents_nk.tolist() == [[2, 1, 3, 5]]
    assert found.activations_nk.tolist() == [[2, 1, 1, 1]]
    assert found.active_n.tolist() == [6]


def test_a_row_without_active_latents_and_a_row_of_zeros() -> None:
    sae = dictionary(5, 3, 4, jump=False)
    sae.b_enc_m[:] = -1e6
    sae.b_dec_d[:] = 0
    found = top_latents(sae, np.array([[1, 2, 3], [0, 0, 0]], np.float32), 2)
    assert found.activations_nk.tolist() == [[0, 0], [0, 0]]
    assert found.latents_nk.tolist() == [[0, 1], [0, 1]]
    assert found.active_n.tolist() == [0, 0]
    assert found.error_n.tolist() == [1.0, 0.0]
