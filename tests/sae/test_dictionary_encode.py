"""Dense and sparse encoding against the definition of each activation."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.errors import FeaturewatchError
from monitor.sae import Activation, GroupMax, JumpRelu, Relu, TopK, encode
from monitor.sae.activation import activate_
from monitor.sae.encode import encode_dense, encode_sparse

Floats = npt.NDArray[np.float32]


def activation_of(name: str, m: int, rng: np.random.Generator) -> Activation:
    if name == "relu":
        return Relu()
    if name == "jumprelu":
        return JumpRelu(rng.random(m, np.float32))
    return TopK(min(m, 5)) if name == "topk" else GroupMax(m // 2)


def by_definition(x_nd: Floats, w_enc_md: Floats, b_enc_m: Floats, activation: Activation) -> Floats:
    f_nm: Floats = x_nd @ w_enc_md.T + b_enc_m
    activate_(f_nm, activation)
    return f_nm


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(["relu", "jumprelu", "topk", "groupmax"]),
    n=st.integers(0, 20),
    m=st.sampled_from([2, 6, 64, 130, 500]),
    coarse=st.booleans(),
    rows=st.sampled_from([1, 3, 100]),
    seed=st.integers(0, 10_000),
)
def test_dense_and_sparse_are_the_definition(*, name: str, n: int, m: int, coarse: bool, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x_nd, w_enc_md, b_enc_m = (rng.standard_normal(shape, np.float32) for shape in ((n, 4), (m, 4), (m,)))
    if coarse:  # equal values, and exact products in any order
        x_nd, w_enc_md, b_enc_m = x_nd.round(), w_enc_md.round(), b_enc_m.round()
    activation = activation_of(name, m, rng)
    expected_nm = by_definition(x_nd, w_enc_md, b_enc_m, activation)
    found_nm = encode_dense(x_nd, w_enc_md, b_enc_m, activation)
    np.testing.assert_allclose(found_nm, expected_nm, rtol=1e-4, atol=1e-5)
    sparse = encode_sparse(x_nd, w_enc_md, b_enc_m, activation, rows)
    again_nm = np.zeros_like(found_nm)
    again_nm[np.repeat(np.arange(n), np.diff(sparse.row_starts_n1)), sparse.latents_a] = sparse.values_a
    np.testing.assert_allclose(again_nm, expected_nm, rtol=1e-4, atol=1e-5)
    assert (sparse.values_a > 0).all()
    assert len(sparse.values_a) == np.count_nonzero(again_nm)


@pytest.mark.parametrize("name", ["relu", "jumprelu", "topk", "groupmax"])
def test_memory_that_is_given_is_used_and_shares_change_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rng = np.random.default_rng(1)
    x_nd, w_enc_md, b_enc_m = (rng.standard_normal(shape, np.float32) for shape in ((37, 8), (70, 8), (70,)))
    activation = activation_of(name, 70, rng)
    whole_nm = encode_dense(x_nd, w_enc_md, b_enc_m, activation)
    monkeypatch.setattr(encode, "_CHUNK_VALUES", 1000)
    monkeypatch.setattr(encode.os, "sched_getaffinity", lambda _: range(3))
    out_nm = np.full((37, 70), np.nan, np.float32)
    shared_nm = encode_dense(x_nd, w_enc_md, b_enc_m, activation, out_nm)
    assert np.shares_memory(shared_nm, out_nm)
    np.testing.assert_allclose(shared_nm, whole_nm, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(shared_nm, encode_dense(x_nd, w_enc_md, b_enc_m, activation))


@pytest.mark.parametrize(
    "out_nm",
    [np.empty((2, 4), np.float32), np.empty((2, 3)), np.empty((3, 2), np.float32).T],
    ids=["shape", "dtype", "order"],
)
def test_memory_that_does_not_fit_is_refused(out_nm: Floats) -> None:
    with pytest.raises(FeaturewatchError, match=r"it must be contiguous float32 of shape \[2, 3\]"):
        encode_dense(np.ones((2, 5), np.float32), np.ones((3, 5), np.float32), np.ones(3, np.float32), Relu(), out_nm)


def test_nan_comes_through() -> None:
    x_nd = np.full((1, 2), np.nan, np.float32)
    found_nm = encode_dense(
        x_nd, np.ones((3, 2), np.float32), np.zeros(3, np.float32), JumpRelu(np.ones(3, np.float32))
    )
    assert np.isnan(found_nm).all()


def test_importing_the_room_does_not_load_the_compiler() -> None:
    code = "import sys, monitor.sae; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
