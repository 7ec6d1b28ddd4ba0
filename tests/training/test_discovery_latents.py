"""The ranking of latents runs in chunks of rows, which must not show in the scores."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from monitor.sae import Dictionary, HookPoint, JumpRelu
from training.discovery import latents
from training.discovery.latents import latent_scores, rank_latents
from training.discovery.online import prompt_maximum, rolling_mean
from training.discovery.statistics import auroc


def _dictionary(width: int, num_latents: int) -> Dictionary:
    encoder = np.random.default_rng(1).normal(size=(num_latents, width)).astype(np.float32)
    return Dictionary(
        w_enc_md=encoder,
        b_enc_m=np.zeros(num_latents, np.float32),
        w_dec_md=encoder,
        b_dec_d=np.zeros(width, np.float32),
        activation=JumpRelu(np.full(num_latents, 0.5, np.float32)),
        hook_point=HookPoint(2),
        model="toy",
    )


@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 1000])
@pytest.mark.parametrize("window", [1, 5, 40])
def test_chunks_give_the_scores_of_all_rows_at_once(monkeypatch: pytest.MonkeyPatch, chunk: int, window: int) -> None:
    """Prompts of no row, of fewer rows than judged, of one chunk and of many; cuts within and between prompts."""
    lengths = [0, 3, 16, 90, 0, 0, 1, 2, 64, 7, 33, 0]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows_nd = np.random.default_rng(0).normal(size=(starts[-1], 6)).astype(np.float32)
    dictionary = _dictionary(6, 9)
    whole = prompt_maximum(rolling_mean(dictionary.encode(rows_nd), starts, window), starts, 4)
    monkeypatch.setattr(latents, "_CHUNK_ROWS", chunk)
    scores = latent_scores(dictionary, rows_nd, starts, window=window, min_tokens=4)
    assert np.isneginf(scores).any(1).tolist() == [length < 4 for length in lengths]
    np.testing.assert_allclose(scores, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prompts", [1, 40])
def test_memory_is_that_of_a_chunk_of_rows(prompts: int) -> None:
    """40 prompts of 300 tokens, and one prompt of 12,000: 28 bytes a row and latent for 4,096 rows, not for all."""
    rows, num_latents = 12_000, 200
    rows_nd = np.ones((rows, 4), np.float32)
    starts = np.linspace(0, rows, prompts + 1).astype(np.int64)
    dictionary = _dictionary(4, num_latents)
    tracemalloc.start()
    try:
        latent_scores(dictionary, rows_nd, starts, window=16, min_tokens=4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 36 * 4096 * num_latents


def test_ranking_in_chunks_of_latents_is_the_ranking_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    scores_pm = np.random.default_rng(0).normal(size=(40, 13)).astype(np.float32)
    positive_p = np.arange(40) % 3 == 0
    monkeypatch.setattr(latents, "_CHUNK_LATENTS", 5)
    np.testing.assert_array_equal(rank_latents(scores_pm, positive_p).auroc_m, auroc(scores_pm, positive_p))
