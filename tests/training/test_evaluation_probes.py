"""Sparse probes find a planted latent and nothing in shuffled labels; sources that are left out stay out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from training.discovery.prompt import Prompt
from training.evaluation.probing import (
    Probe,
    majority,
    outer_folds,
    probe_on_residual,
    probe_on_words,
    probes_on_latents,
)
from training.evaluation.score import separation

TEXTS, LATENTS, PLANTED = 240, 60, 17


def _prompts(positive_p: np.ndarray, words: tuple[str, str] = ("calm", "calm")) -> list[Prompt]:
    """Three sources of either label."""
    return [
        Prompt(f"text {words[int(label)]} {i}", bool(label), i // 6 % 3 == 0, f"{'bad' if label else 'good'}-{i % 3}")
        for i, label in enumerate(positive_p)
    ]


def _planted(seed: int = 0) -> tuple[sparse.csr_array, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive_p = rng.random(TEXTS) < 0.5
    codes_pm = rng.exponential(size=(TEXTS, LATENTS)) * (rng.random((TEXTS, LATENTS)) < 0.1)
    codes_pm[:, PLANTED] = np.where(positive_p, 1.0, 0.0) + 0.25 * np.abs(rng.normal(size=TEXTS))
    return sparse.csr_array(codes_pm.astype(np.float32)), positive_p


@pytest.mark.parametrize("selection", ["difference", "l1"])
def test_a_planted_latent_is_found(selection: str) -> None:
    codes_pm, positive_p = _planted()
    probes = probes_on_latents(codes_pm, _prompts(positive_p), (5, 1, 1, 500), selection)
    assert [probe.k for probe in probes] == [1, 5]
    assert probes[0].latents == [PLANTED]
    assert len(set(probes[1].latents)) == 5
    for probe in probes:
        assert probe.heldout.auroc.value > 0.95
        assert probe.unseen_sources is not None
        assert probe.unseen_sources.auroc.value > 0.95
        assert probe.heldout.accuracy.value > 0.9


def test_shuffled_labels_give_nothing() -> None:
    codes_pm, positive_p = _planted()
    shuffled_p = np.random.default_rng(5).permutation(positive_p)
    for probe in probes_on_latents(codes_pm, _prompts(shuffled_p), (1, 10), "difference"):
        auroc = probe.heldout.auroc
        assert auroc.low is not None
        assert auroc.high is not None
        assert auroc.low < 0.5 < auroc.high


def test_a_latent_that_knows_the_source_only_fails_on_other_sources() -> None:
    rng = np.random.default_rng(0)
    positive_p = np.arange(TEXTS) % 2 == 0
    prompts = _prompts(positive_p)
    codes_pm = np.abs(rng.normal(size=(TEXTS, 6))).astype(np.float32)
    for i, prompt in enumerate(prompts):
        codes_pm[i, 3 + int(prompt.source[-1])] += 2.0 * prompt.is_positive
    (probe,) = probes_on_latents(sparse.csr_array(codes_pm), prompts, (2,), "difference")
    assert probe.unseen_sources is not None
    assert probe.unseen_sources.auroc.value < 0.7
    # Texts of the sources that were seen in the fit are told well.
    (again,) = probes_on_latents(sparse.csr_array(codes_pm), prompts, (3,), "difference")
    assert set(again.latents) == {3, 4, 5}
    assert again.heldout.auroc.value > 0.9


def test_no_source_is_fitted_on_and_judged() -> None:
    _, positive_p = _planted()
    prompts = _prompts(positive_p)
    folds = outer_folds(prompts)
    assert len(folds) == 3
    for train, held in folds:
        assert not {prompts[row].source for row in train} & {prompts[row].source for row in held}
        assert not any(prompts[row].is_val for row in train)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(TEXTS))
    few = [dataclasses.replace(prompt, source="one") for prompt in prompts]
    assert outer_folds(few) == []


def test_baselines_see_what_they_are_given() -> None:
    _, positive_p = _planted()
    rng = np.random.default_rng(1)
    residual_pd = rng.normal(size=(TEXTS, 12)).astype(np.float32)
    residual_pd[:, :4] += positive_p[:, None]
    plain, telling = _prompts(positive_p), _prompts(positive_p, ("calm", "storm"))
    assert probe_on_residual(residual_pd, plain, 0).heldout.auroc.value > 0.85
    assert probe_on_words(telling, 0).heldout.auroc.value == 1
    blind = probe_on_words([dataclasses.replace(p, text="same words") for p in plain], 0)
    assert blind.heldout.auroc.value == 0.5
    dull: Probe = majority(plain)
    assert dull.heldout.auroc.value == 0.5
    val_p = np.array([prompt.is_val for prompt in plain])
    more = positive_p[~val_p].mean() > 0.5
    assert dull.heldout.accuracy.value == pytest.approx((positive_p[val_p] == more).mean())


def test_separation_of_known_scores() -> None:
    scores_p = np.array([3.0, 2.0, 1.0, -1.0, 0.5, -2.0, -3.0, -1.0])
    positive_p = np.array([True] * 4 + [False] * 4)
    found = separation(scores_p, positive_p)
    assert found.auroc.value == pytest.approx((4 + 4 + 4 + 2.5) / 16)
    assert found.accuracy.value == 6 / 8
    assert found.accuracy.low is not None
    assert found.accuracy.low < 6 / 8
    perfect = separation(np.array([1.0, 1.0, -1.0, -1.0]), np.array([True, True, False, False]))
    assert (perfect.auroc.value, perfect.auroc.low, perfect.auroc.high) == (1, 1, 1)
