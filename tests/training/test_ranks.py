"""The ranks' calls over two processes against the plain computation over everything."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.two_ranks import TwoRanks
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, JumpRelu
from training.architectures.auxiliary import auxiliary_loss
from training.distributed.gather import gather_dictionary
from training.distributed.global_cut import global_cut
from training.distributed.launch import started_ranks
from training.distributed.ranks import OneProcess, Ranks
from training.distributed.torch_ranks import DataParallelRanks, LatentShardedRanks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[TwoRanks]:
    ranks = TwoRanks()
    yield ranks
    ranks.close()


def _top(count: int, values: Tensor) -> float:
    positive = values[values > 0].sort(descending=True).values
    return float(positive[count - 1]) if count <= len(positive) else 0.0


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(0, float(np.finfo(np.float32).max), width=32, exclude_min=True), max_size=40),
    count=st.integers(1, 45),
)
def test_the_radix_cut_is_the_kth_largest(values: list[float], count: int) -> None:
    values_c = torch.tensor(values, dtype=torch.float32)
    assert float(global_cut(values_c, count, lambda counts: counts)) == _top(count, values_c)


def test_the_radix_cut_of_equal_values() -> None:
    assert float(global_cut(torch.tensor([2.0, 2.0, 2.0, 1.0]), 2, lambda counts: counts)) == 2.0
    assert float(OneProcess().batch_cut(torch.tensor([2.0, 2.0, 2.0, 1.0]), 2)) == 2.0


def _scores(rows: int, latents: int) -> Tensor:
    return torch.randn(rows, latents, generator=torch.Generator().manual_seed(rows))


def _cuts(layout: str, rows: int, latents: int, count: int) -> tuple[float, list[float]]:
    scores_nm = _scores(rows, latents)
    ranks = DataParallelRanks(CPU) if layout == "data" else LatentShardedRanks(CPU)
    own_nm = scores_nm.tensor_split(ranks.row_shares)[ranks.row_share]
    own_nm = own_nm.tensor_split(ranks.latent_shares, 1)[ranks.latent_share].clamp(min=0)
    top_nk = torch.topk(own_nm, min(count, own_nm.shape[1]), dim=1).values
    return float(ranks.batch_cut(own_nm[own_nm > 0], count * rows)), ranks.row_cuts_n(top_nk, count).tolist()


@pytest.mark.parametrize("layout", ["data", "latents"])
@pytest.mark.parametrize(("rows", "latents", "count"), [(8, 40, 5), (7, 9, 6), (31, 64, 1), (4, 6, 6), (16, 200, 120)])
def test_cuts_over_two_ranks_are_the_cuts_over_all(
    two_ranks: TwoRanks, layout: str, rows: int, latents: int, count: int
) -> None:
    scores_nm = _scores(rows, latents)
    first, second = two_ranks.run(_cuts, layout, rows, latents, count)
    assert first[0] == second[0] == _top(count * rows, scores_nm)
    expected_n = [_top(count, row_m) for row_m in scores_nm]
    assert first[1] == expected_n[: len(first[1])]
    assert second[1] == expected_n[-len(second[1]) :]
    assert len(first[1]) == (rows if layout == "latents" else -(-rows // 2))


def _sums(layout: str) -> list[list[float]]:
    ranks = DataParallelRanks(CPU) if layout == "data" else LatentShardedRanks(CPU)
    own = 1.0 + 2.0 * (ranks.row_share + ranks.latent_share)
    flags = [ranks.any_rank(not ranks.first), ranks.any_rank(False)]
    return [[float(ranks.sum_rows_(torch.tensor(own))), float(ranks.sum_latents_(torch.tensor(own)))], flags]


def test_sums_go_over_the_layout_s_own_ranks(two_ranks: TwoRanks) -> None:
    assert two_ranks.run(_sums, "data") == [[[4.0, 1.0], [True, False]], [[4.0, 3.0], [True, False]]]
    assert two_ranks.run(_sums, "latents") == [[[1.0, 4.0], [True, False]], [[3.0, 4.0], [True, False]]]


def _dictionary(latents: int) -> Dictionary:
    rng = np.random.default_rng(0)
    w_enc_md, w_dec_md = rng.normal(size=(2, latents, 3)).astype(np.float32)
    b_enc_m, threshold_m = np.abs(rng.normal(size=(2, latents))).astype(np.float32)
    return Dictionary(
        w_enc_md, b_enc_m, w_dec_md, np.ones(3, np.float32), JumpRelu(threshold_m), HookPoint(layer=1), "made up"
    )


def _gathered_equals_whole() -> bool:
    whole, ranks = _dictionary(8), LatentShardedRanks(CPU)
    own = slice(4 * ranks.latent_share, 4 * ranks.latent_share + 4)
    assert isinstance(whole.activation, JumpRelu)
    part = Dictionary(
        whole.w_enc_md[own],
        whole.b_enc_m[own],
        whole.w_dec_md[own],
        whole.b_dec_d,
        JumpRelu(whole.activation.threshold_m[own]),
        whole.hook_point,
        whole.model,
    )
    gathered = gather_dictionary(part, ranks)
    if gathered is None:
        return not ranks.first
    x_nd = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    return ranks.first and np.array_equal(gathered.encode(x_nd), whole.encode(x_nd))


def test_a_sharded_dictionary_comes_together_on_the_first_rank(two_ranks: TwoRanks) -> None:
    assert two_ranks.run(_gathered_equals_whole) == [True, True]


def _in_turn(fail: bool) -> str:
    ranks = DataParallelRanks(CPU)
    begun: list[int] = []

    def work() -> str:
        begun.append(ranks.rank)
        if fail and ranks.first:
            raise OSError("disk full")
        return f"rank {ranks.rank} worked"

    try:
        return ranks.after_first(work)
    except (OSError, FeaturewatchError) as error:
        return f"{begun} {error}"


def test_the_others_work_after_the_first_rank_and_not_when_it_failed(two_ranks: TwoRanks) -> None:
    assert two_ranks.run(_in_turn, False) == ["rank 0 worked", "rank 1 worked"]
    first, second = two_ranks.run(_in_turn, True)
    assert first == "[0] disk full"
    assert second.startswith("[] the first rank: it stopped before the training")


def _auxiliary(ranks: Ranks) -> list[Tensor]:
    """Loss and summed gradients of a batch of which the loss looks at every fourth row."""
    generator = torch.Generator().manual_seed(0)
    rows, d, m = 1060, 8, 16
    x_nd, grad_nd = torch.randn(2, rows, d, generator=generator)
    weights = (torch.randn(m, d, generator=generator), torch.zeros(m), torch.randn(m, d, generator=generator))
    gradients = (torch.zeros(m, d), torch.zeros(m), torch.zeros(m, d))
    own = (ranks.own_rows(x_nd), ranks.own_rows(grad_nd))
    loss = auxiliary_loss(1.0, 1 / 8, torch.arange(8), m, *own, torch.tensor(-1.0), weights, gradients, ranks)
    return [loss, *(ranks.sum_rows_(gradient) for gradient in gradients)]


def _shared_auxiliary() -> list[Tensor]:
    return _auxiliary(DataParallelRanks(CPU))


def test_the_auxiliary_loss_looks_at_the_same_rows_on_two_ranks(two_ranks: TwoRanks) -> None:
    """Also where a rank's first row, 530, is none of every fourth."""
    expected = _auxiliary(OneProcess())
    assert all(float(tensor.abs().max()) > 0 for tensor in expected)
    for found in two_ranks.run(_shared_auxiliary):
        for ours, alone in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-6)


def _uneven_rows() -> str:
    try:
        DataParallelRanks(CPU).own_rows(torch.zeros(5, 2))
    except FeaturewatchError as error:
        return str(error)
    return "taken"


def test_a_batch_that_does_not_divide_is_refused(two_ranks: TwoRanks) -> None:
    assert all("a batch of 5 rows on 2 ranks" in answer for answer in two_ranks.run(_uneven_rows))


def _alone() -> str:
    """The first rank leaves; the second is in a collective."""
    ranks = DataParallelRanks(CPU)
    if ranks.first:
        os._exit(1)
    try:
        ranks.any_rank(False)
    except FeaturewatchError as error:
        return str(error)
    return "went on alone"


def test_a_rank_that_dies_ends_the_others_with_an_error() -> None:
    ranks = TwoRanks()
    try:
        answer = ranks.run_on_dying_first(_alone)
    finally:
        ranks.close()
    assert "every rank must live" in answer


@pytest.mark.parametrize(
    ("layout", "rows", "latents", "message"),
    [
        ("rows", 8, 8, "layout 'rows': it is data or latents"),
        ("data", 9, 8, "9 rows on 2 ranks"),
        ("latents", 8, 9, "9 latents on 2 ranks"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_before_any_connection(
    monkeypatch: pytest.MonkeyPatch, layout: str, rows: int, latents: int, message: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(FeaturewatchError, match=message),
        started_ranks(layout, CPU, batch_rows=rows, latents=[latents]),
    ):
        pass


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with started_ranks("latents", CPU, batch_rows=9, latents=[9]) as ranks:
        assert isinstance(ranks, OneProcess)
