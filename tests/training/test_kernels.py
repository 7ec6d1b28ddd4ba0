"""Selections and sparse products: both back ends against dense torch."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.distributed.ranks import OneProcess
from training.kernels import sparse_cpu, sparse_torch
from training.kernels.codes import SparseCodes
from training.kernels.threads import spread
from training.kernels.unit_rows import normalise_rows_, remove_parallel_

BACKENDS = [sparse_cpu, sparse_torch]
backends = pytest.mark.parametrize("backend", BACKENDS, ids=["cpu", "torch"])


def dense(codes: SparseCodes, m: int) -> Tensor:
    """[n, m]."""
    n = len(codes.row_starts_n1) - 1
    rows_a = torch.repeat_interleave(torch.arange(n), codes.row_starts_n1.diff())
    return torch.zeros(n, m).index_put((rows_a, codes.latents_a.long()), codes.values_a)


def some_codes(backend: ModuleType, n: int, m: int, k: int, seed: int) -> SparseCodes:
    pre_nm = torch.randn(n, m, generator=torch.Generator().manual_seed(seed))
    codes: SparseCodes = backend.batch_top_k(pre_nm, k * n, OneProcess())
    return codes


@settings(deadline=None, max_examples=60)
@given(
    backend=st.sampled_from(BACKENDS),
    n=st.integers(1, 9),
    m=st.integers(1, 300),
    k=st.integers(1, 40),
    coarse=st.booleans(),
    hint=st.sampled_from([0.0, 0.3, 1e-4, 100.0]),
    seed=st.integers(0, 10_000),
)
def test_batch_top_k_keeps_the_largest_values(
    *, backend: ModuleType, n: int, m: int, k: int, coarse: bool, hint: float, seed: int
) -> None:
    pre_nm = torch.randn(n, m, generator=torch.Generator().manual_seed(seed))
    if coarse:  # many equal values
        pre_nm = (2 * pre_nm).round() / 2
    codes = backend.batch_top_k(pre_nm, k * n, OneProcess(), hint)
    expected = torch.topk(pre_nm.flatten(), min(k * n, n * m)).values.clamp(min=0)
    found = codes.values_a[codes.values_a > 0].sort(descending=True).values
    torch.testing.assert_close(found, expected[expected > 0], rtol=0, atol=0)
    f_nm = dense(codes, m)
    torch.testing.assert_close(f_nm[f_nm > 0], pre_nm[f_nm > 0], rtol=0, atol=0)
    smallest = float(expected[-1]) if k * n <= n * m else 0.0
    assert float(codes.cut) == smallest


@settings(deadline=None, max_examples=80)
@given(
    backend=st.sampled_from(BACKENDS),
    n=st.integers(1, 6),
    m=st.integers(1, 700),
    k=st.integers(1, 90),
    coarse=st.booleans(),
    shift=st.sampled_from([-3.0, 0.0, 3.0]),
    seed=st.integers(0, 10_000),
)
def test_row_top_k_keeps_each_rows_largest_values(
    *, backend: ModuleType, n: int, m: int, k: int, coarse: bool, shift: float, seed: int
) -> None:
    pre_nm = torch.randn(n, m, generator=torch.Generator().manual_seed(seed)) + shift
    if coarse:
        pre_nm = pre_nm.round()
    f_nm = dense(backend.row_top_k(pre_nm, k, OneProcess()), m)
    expected_nk = torch.topk(pre_nm, min(k, m), dim=1).values.clamp(min=0)
    torch.testing.assert_close(torch.topk(f_nm, min(k, m), dim=1).values, expected_nk, rtol=0, atol=0)
    assert (f_nm.count_nonzero(1) <= k).all()
    torch.testing.assert_close(f_nm[f_nm > 0], pre_nm[f_nm > 0], rtol=0, atol=0)


def test_of_equal_values_the_first_are_kept() -> None:
    batch = sparse_cpu.batch_top_k(torch.ones(4, 5), 7, OneProcess())
    assert batch.latents_a.tolist() == [0, 1, 2, 3, 4, 0, 1]
    rows = sparse_cpu.row_top_k(torch.ones(2, 200), 3, OneProcess())
    assert rows.latents_a.tolist() == [0, 1, 2, 0, 1, 2]


class TwoShares(OneProcess):
    """This rank has half of the latents; the cuts come from the other half as well."""

    latent_shares = 2

    def __init__(self, other_nm: Tensor) -> None:
        self.other_nm = other_nm

    def batch_cut(self, candidates_c: Tensor, count: int) -> Tensor:
        return super().batch_cut(torch.cat([candidates_c, self.other_nm.flatten()]), count).clamp(min=0)

    def row_cuts_n(self, top_nk: Tensor, count: int) -> Tensor:
        return super().row_cuts_n(torch.cat([top_nk, self.other_nm], dim=1), count)


@backends
def test_a_share_of_the_latents_keeps_its_part_of_the_whole_selection(backend: ModuleType) -> None:
    pre_nm = torch.randn(30, 400, generator=torch.Generator().manual_seed(5))
    own_nm, other_nm = pre_nm[:, :100].contiguous(), pre_nm[:, 100:].contiguous()
    for name, count in (("batch_top_k", 300), ("row_top_k", 10)):
        whole_nm = dense(getattr(backend, name)(pre_nm, count, OneProcess()), 400)
        share_nm = dense(getattr(backend, name)(own_nm, count, TwoShares(other_nm)), 100)
        torch.testing.assert_close(share_nm, whole_nm[:, :100], rtol=0, atol=0)


@backends
@pytest.mark.parametrize("bounds", [[60], [5, 20, 60], [0, 60, 60]])
@pytest.mark.parametrize("shared", [False, True])
def test_products_equal_dense_ones(backend: ModuleType, bounds: list[int], shared: bool) -> None:
    n, m, d = 70, 60, 17
    generator = torch.Generator().manual_seed(6)
    codes = some_codes(backend, n, m, 5, seed=7)
    f_nm = dense(codes, m).requires_grad_()
    w_dec_md = torch.randn(m, d, generator=generator, requires_grad=True)
    target_nd, x_nd = torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)
    errors = [f_nm[:, :end] @ w_dec_md[:end] - target_nd for end in bounds]
    (0.35 * torch.stack([error.square().sum() for error in errors]).sum()).backward()
    assert f_nm.grad is not None

    ranks = TwoShares(torch.zeros(0)) if shared else OneProcess()  # the path that sums over the ranks, of which one
    grad_gnd, weights_md = torch.empty(len(bounds), n, d), w_dec_md.detach()
    back = backend.reconstruct(codes, weights_md, target_nd, 0.7, bounds, grad_gnd, ranks)
    torch.testing.assert_close(back.squares_g, torch.stack([e.detach().square().sum() for e in errors]).double())
    torch.testing.assert_close(back.sums_d, grad_gnd[0].sum(0))
    active_nm = f_nm.detach() > 0
    df_nm = dense(SparseCodes(codes.row_starts_n1, codes.latents_a, back.slopes_a), m)
    torch.testing.assert_close(df_nm, f_nm.grad * active_nm, rtol=1e-4, atol=1e-4)

    d_enc_md, d_dec_md = torch.full((m, d), torch.nan), torch.full((m, d), torch.nan)
    d_bias_m, fired_m = backend.weight_gradients(codes, back.slopes_a, grad_gnd, bounds, x_nd, d_enc_md, d_dec_md)
    torch.testing.assert_close(d_dec_md, w_dec_md.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(d_enc_md, (f_nm.grad * active_nm).T @ x_nd, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(d_bias_m, (f_nm.grad * active_nm).sum(0), rtol=1e-4, atol=1e-4)
    assert fired_m.tolist() == active_nm.sum(0).tolist()

    torch.testing.assert_close(backend.decode(codes, weights_md), f_nm.detach() @ weights_md, rtol=1e-4, atol=1e-4)


@backends
def test_moments_and_centred_rows(backend: ModuleType) -> None:
    x_nd, b_dec_d = torch.randn(90, 7) + 3, torch.randn(7)
    centred_nd = torch.empty(90, 7)
    moments = backend.centre(x_nd, b_dec_d, centred_nd)
    torch.testing.assert_close(centred_nd, x_nd - b_dec_d)
    torch.testing.assert_close(moments[:-1], x_nd.double().sum(0))
    torch.testing.assert_close(moments[-1], x_nd.double().square().sum(), rtol=1e-6, atol=0)


def test_unit_rows() -> None:
    rows_md, gradient_md = torch.randn(50, 9), torch.randn(50, 9)
    normalise_rows_(rows_md)
    torch.testing.assert_close(rows_md.norm(dim=1), torch.ones(50))
    expected = gradient_md - (gradient_md * rows_md).sum(1, keepdim=True) * rows_md
    remove_parallel_(gradient_md, rows_md)
    torch.testing.assert_close(gradient_md, expected)


def test_a_row_of_zeros_stays_one() -> None:
    rows_md = torch.ones(3, 4)
    rows_md[1] = 0.0
    rows_md[2] = 1e-30  # its squares are 0 in float32
    normalise_rows_(rows_md)
    torch.testing.assert_close(rows_md, torch.tensor([0.5, 0.0, 1e-18])[:, None].expand(3, 4), rtol=1e-5, atol=0)
    gradient_md = torch.randn(3, 4)
    kept_d = gradient_md[1].clone()
    remove_parallel_(gradient_md, rows_md)
    torch.testing.assert_close(gradient_md[1], kept_d, rtol=0, atol=0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    """Bit for bit: partial sums belong to shares of the rows, not to threads."""

    def results() -> list[Tensor]:
        codes = some_codes(sparse_cpu, 200, 150, 8, seed=1)
        w_dec_md, x_nd = torch.linspace(-1, 1, 150 * 33).view(150, 33), torch.linspace(-2, 3, 200 * 33).view(200, 33)
        grad_gnd, d_enc_md, d_dec_md = torch.empty(1, 200, 33), torch.empty(150, 33), torch.empty(150, 33)
        back = sparse_cpu.reconstruct(codes, w_dec_md, x_nd, 0.1, [150], grad_gnd, OneProcess())
        d_bias_m, _ = sparse_cpu.weight_gradients(codes, back.slopes_a, grad_gnd, [150], x_nd, d_enc_md, d_dec_md)
        moments = sparse_cpu.centre(x_nd, x_nd[0], torch.empty_like(x_nd))
        return [*back, d_enc_md, d_dec_md, d_bias_m, moments]

    expected, before = results(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = results()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first, second) for first, second in zip(expected, found, strict=True))


def test_shares_cover_everything_once_and_errors_come_through() -> None:
    for size in (0, 1, 31, 32, 33, 1000):
        seen = np.zeros(size, int)

        def count(low: int, high: int, part: int, seen: np.ndarray = seen) -> None:
            seen[low:high] += 1

        spread(count, size)
        assert (seen == 1).all()

    def fail(low: int, high: int, part: int) -> None:
        if part == 3:
            raise ValueError("share 3")

    with pytest.raises(ValueError, match="share 3"):
        spread(fail, 100)
