"""Figures on rows equal a direct computation over all rows at once, however the rows come in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_saes import constant_sae, exact_sae, random_sae

from monitor.sae import Dictionary, TopK
from training.evaluation import measure
from training.evaluation.decoder import decoder_figures
from training.evaluation.figure import bootstrapped, mean_figure
from training.evaluation.latent_sums import LatentSums
from training.evaluation.measure import Measurement, measure_rows
from training.evaluation.reconstruction import norm_bands, reconstruction_of
from training.evaluation.row_sums import BLOCKS
from training.harvest.tokens import Reason

ALL = ("kept", "outlier", "excluded")


def _rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows around a large mean, a tenth of them far out, with reasons and sequences of seven."""
    rng = np.random.default_rng(seed)
    rows_nd = (rng.normal(size=(count, 8)) + 5 * np.arange(8) / 8).astype(np.float32)
    reasons_n = rng.choice([Reason.KEPT, Reason.OUTLIER, Reason.BOS], count, p=[0.8, 0.1, 0.1]).astype(np.uint8)
    rows_nd[reasons_n == Reason.OUTLIER] *= 20
    return rows_nd, reasons_n, np.arange(count) // 7


def _direct(dictionary: Dictionary, rows_nd: np.ndarray) -> dict[str, float]:
    x_nd = rows_nd.astype(np.float64)
    codes_nm = dictionary.encode(rows_nd)
    out_nd = dictionary.decode(codes_nm, rows_nd).astype(np.float64)
    error = np.square(out_nd - x_nd).sum()
    norms_n, out_norms_n = np.linalg.norm(x_nd, axis=1), np.linalg.norm(out_nd, axis=1)
    return {
        "fvu": error / np.square(x_nd - x_nd.mean(0)).sum(),
        "explained_variance": 1 - error / np.square(x_nd - x_nd.mean(0)).sum(),
        "mse": error / len(x_nd),
        "cosine": float(np.mean((x_nd * out_nd).sum(1) / (norms_n * out_norms_n))),
        "norm_ratio": float(np.mean(out_norms_n / norms_n)),
        "bias": np.square(out_norms_n).mean() / (x_nd * out_nd).sum(1).mean(),
        "l0": float((codes_nm != 0).sum(1).mean()),
        "l1": float(np.abs(codes_nm).sum(1).mean()),
    }


@pytest.mark.parametrize("strata", [("kept",), ("kept", "outlier"), ALL])
@pytest.mark.parametrize("kind", ["jumprelu", "topk", "layer_norm"])
def test_figures_equal_a_direct_computation(strata: tuple[str, ...], kind: str) -> None:
    sae = random_sae()
    if kind == "topk":
        sae = dataclasses.replace(sae, activation=TopK(3))
    if kind == "layer_norm":
        sae = dataclasses.replace(sae, input_norm="layer_norm")
    rows_nd, reasons_n, sequences_n = _rows(300)
    measurement = Measurement(sae, 3.0)
    measurement.add(rows_nd, reasons_n, sequences_n)
    found = reconstruction_of(measurement.rows, strata)
    names = {Reason.KEPT: "kept", Reason.OUTLIER: "outlier", Reason.BOS: "excluded"}
    chosen_n = np.array([names[Reason(reason)] in strata for reason in reasons_n])
    assert found.rows == chosen_n.sum()
    for name, value in _direct(sae, rows_nd[chosen_n]).items():
        figure = getattr(found, name)
        assert figure.value == pytest.approx(value, rel=1e-5), name
        assert figure.n == found.rows
        assert figure.low <= figure.value <= figure.high


def _exact(values: np.ndarray) -> np.ndarray:
    """In quarters: sums of products are exact in float32, so that no order of adding shows."""
    return np.round(4 * values).astype(np.float32) / 4


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 3))
def test_chunks_of_any_size_give_the_same_figures(sizes: list[int], seed: int) -> None:
    rows_nd, reasons_n, sequences_n = _rows(sum(sizes), seed)
    rows_nd, sae = _exact(rows_nd), random_sae(seed=seed)
    exact = {name: _exact(getattr(sae, name)) for name in ("w_enc_md", "b_enc_m", "w_dec_md", "b_dec_d")}
    sae = dataclasses.replace(sae, **exact)
    whole, parts = Measurement(sae, 4.0), Measurement(sae, 4.0)
    whole.add(rows_nd, reasons_n, sequences_n)
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        chunk = slice(end - size, end)
        parts.add(rows_nd[chunk], reasons_n[chunk], sequences_n[chunk])
    assert parts.latents.firing() == whole.latents.firing()
    first, second = (reconstruction_of(each.rows, ALL) for each in (whole, parts))
    assert second.rows == first.rows
    if len(rows_nd) > 1:
        assert second.fvu.value == pytest.approx(first.fvu.value, rel=1e-9)
    assert second.mse.value == pytest.approx(first.mse.value, rel=1e-9)
    np.testing.assert_allclose(parts.rows.bands_qk[1], whole.rows.bands_qk[1], rtol=1e-9)
    np.testing.assert_allclose(parts.rows.mean_d(), whole.rows.mean_d(), rtol=1e-5, atol=1e-6)


def test_rows_are_encoded_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Watched(Dictionary):
        def encode(self, x_nd: np.ndarray) -> np.ndarray:
            sizes.append(len(x_nd))
            return super().encode(x_nd)

    monkeypatch.setattr(measure, "_CHUNK_VALUES", 24 * 50)
    sae = Watched(**vars(random_sae()))
    rows_nd, _, _ = _rows(170)
    chunked = measure_rows(sae, rows_nd)
    assert sizes == [50, 50, 50, 20]
    monkeypatch.undo()
    assert chunked[0].fvu.value == pytest.approx(measure_rows(sae, rows_nd)[0].fvu.value, rel=1e-6)


def test_rows_that_are_no_numbers_spoil_no_figure_but_their_own() -> None:
    rows_nd, reasons_n, sequences_n = _rows(200)
    reasons_n[0] = Reason.OUTLIER
    broken_nd = rows_nd.copy()
    broken_nd[0, 3] = np.nan
    sound, spoilt = Measurement(random_sae(), 3.0), Measurement(random_sae(), 3.0)
    sound.add(rows_nd, reasons_n, sequences_n)
    spoilt.add(broken_nd, reasons_n, sequences_n)
    first, second = (reconstruction_of(each.rows) for each in (sound, spoilt))
    assert second.fvu.value == pytest.approx(first.fvu.value, rel=1e-9)
    assert np.isnan(reconstruction_of(spoilt.rows, ALL).fvu.value)


def test_a_reconstruction_in_chunks_is_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sae, (rows_nd, _, _) = random_sae(), _rows(40)
    monkeypatch.setattr(measure, "_CHUNK_VALUES", 24 * 7)
    np.testing.assert_allclose(measure.reconstructed(sae, rows_nd), sae.reconstruct(rows_nd), rtol=1e-5, atol=1e-5)
    assert measure.reconstructed(sae, rows_nd[:0]).shape == (0, 8)


def test_an_exact_dictionary_and_one_that_knows_only_the_mean() -> None:
    rows_nd, _, _ = _rows(400)
    exact, _ = measure_rows(exact_sae(8), rows_nd)
    assert (exact.fvu.value, exact.explained_variance.value) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    assert (exact.norm_ratio.value, exact.bias.value, exact.cosine.value) == pytest.approx((1, 1, 1))
    mean, firing = measure_rows(constant_sae(rows_nd.mean(0)), rows_nd)
    assert mean.explained_variance.value == pytest.approx(0, abs=1e-5)
    assert mean.l0.value == 0
    assert firing.silent_share == 1
    assert np.isnan(firing.magnitudes["0.5"])


def test_a_dictionary_that_shrinks_shows_it() -> None:
    whole = exact_sae(8)
    shrunk = dataclasses.replace(whole, w_dec_md=0.7 * whole.w_dec_md)
    found, _ = measure_rows(shrunk, _rows(100)[0])
    assert found.norm_ratio.value == pytest.approx(0.7, rel=1e-5)
    assert found.bias.value == pytest.approx(0.7, rel=1e-5)
    assert found.cosine.value == pytest.approx(1, rel=1e-5)


def test_bands_part_the_content_rows_by_norm() -> None:
    sae = random_sae()
    rows_nd, reasons_n, sequences_n = _rows(500)
    content_n = reasons_n != Reason.BOS
    norms_n = np.linalg.norm(rows_nd, axis=1)
    median = float(np.median(norms_n[content_n]))
    measurement = Measurement(sae, median)
    measurement.add(rows_nd, reasons_n, sequences_n)
    bands = norm_bands(measurement.rows)
    assert sum(band.rows for band in bands) == content_n.sum()
    assert bands[-1].name == "outliers"
    assert bands[-1].rows == (reasons_n == Reason.OUTLIER).sum()
    inside_n = (reasons_n == Reason.KEPT) & (norms_n >= 0.8 * median) & (norms_n < 1.25 * median)
    band = bands[2]
    assert band.rows == inside_n.sum() > 50
    x_nd = rows_nd[inside_n].astype(np.float64)
    error = np.square(sae.decode(sae.encode(rows_nd[inside_n])) - x_nd).sum()
    distance = np.square(x_nd - rows_nd[content_n].mean(0, dtype=np.float64)).sum()
    assert band.fvu == pytest.approx(error / distance, rel=1e-5)


def test_latents_are_counted_and_their_magnitudes_ranked() -> None:
    rng = np.random.default_rng(0)
    codes_nm = np.zeros((1000, 5), np.float32)
    codes_nm[:, 0] = rng.exponential(size=1000)
    codes_nm[:150, 1] = rng.exponential(size=150) * 10
    codes_nm[:3, 2] = -2.0
    sums = LatentSums(5)
    sums.add(codes_nm[:400])
    sums.add(codes_nm[400:])
    found = sums.firing()
    assert (found.rows, found.silent_share, found.dense_share) == (1000, 0.4, 0.4)
    assert found.densest[:3] == [(0, 1.0), (1, 0.15), (2, 0.003)]
    active = np.abs(codes_nm[codes_nm != 0])
    for share in (0.1, 0.5, 0.9, 0.99):
        assert found.magnitudes[f"{share:g}"] == pytest.approx(np.quantile(active, share), rel=0.02)
    assert found.largest == active.max()
    assert sum(found.density_histogram["latents"]) == 3
    assert pytest.approx((1 - found.resolution) ** 1000) == 0.05


def test_decoder_cosines_equal_the_full_matrix_of_them() -> None:
    sae = random_sae(width=8, latents=30)
    w_dec_md = sae.w_dec_md.copy()
    w_dec_md[4] = 3 * w_dec_md[9] + 1e-3
    w_dec_md[7] = 0
    found = decoder_figures(dataclasses.replace(sae, w_dec_md=w_dec_md))
    there = np.delete(w_dec_md, 7, axis=0)
    unit_md = there / np.linalg.norm(there, axis=1, keepdims=True)
    cosine_mm = unit_md @ unit_md.T - 3 * np.eye(29)
    assert found.zero_rows == 1
    assert found.queries == 29
    assert found.nearest_quantiles["0.5"] == pytest.approx(np.median(cosine_mm.max(1)), rel=1e-5)
    assert found.duplicate_share == pytest.approx((cosine_mm.max(1) > 0.9).mean())
    assert found.closest[0][:2] == (4, 9)
    assert len({pair[:2] for pair in found.closest}) == len(found.closest)
    encoder_m = np.delete(sae.w_enc_md, 7, axis=0)
    direct_m = (encoder_m * unit_md).sum(1) / np.linalg.norm(encoder_m, axis=1)
    assert found.encoder_quantiles["0.5"] == pytest.approx(np.median(direct_m), rel=1e-5)
    sampled = decoder_figures(dataclasses.replace(sae, w_dec_md=w_dec_md), queries=10)
    assert sampled.queries == 10
    assert sum(sampled.nearest_histogram["latents"]) == 10


def test_intervals_cover_and_whole_sequences_are_drawn() -> None:
    """Of sequences whose rows are all alike, the interval is as wide as that of one row each."""
    rng = np.random.default_rng(1)
    sums_s, counts_s = 10 * rng.normal(2.0, 1.0, 200), np.full(200, 10.0)
    found = mean_figure(sums_s, counts_s)
    assert found.n == 2000
    assert found.low is not None
    assert found.high is not None
    half = 1.96 * (sums_s / 10).std() / np.sqrt(200)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)
    alone = bootstrapped(lambda a, b: a / b, [np.array([3.0]), np.array([4.0])], 4)
    assert (alone.value, alone.low, alone.high) == (0.75, None, None)
    nothing = mean_figure(np.zeros(3), np.zeros(3))
    assert np.isnan(nothing.value)
    assert nothing.low is None


def test_more_sequences_than_blocks_change_no_figure() -> None:
    rows_nd, reasons_n, _ = _rows(2 * BLOCKS + 5)
    many, one = Measurement(random_sae(), 3.0), Measurement(random_sae(), 3.0)
    many.add(rows_nd, reasons_n, np.arange(len(rows_nd)))
    one.add(rows_nd, reasons_n, np.zeros(len(rows_nd), np.int64))
    for strata in (("kept",), ALL):
        first, second = reconstruction_of(many.rows, strata), reconstruction_of(one.rows, strata)
        assert first.fvu.value == pytest.approx(second.fvu.value, rel=1e-9)
        assert second.fvu.low is None
