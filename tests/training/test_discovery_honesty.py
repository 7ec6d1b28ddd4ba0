"""Figures that must not flatter: held-out sources and the false-alarm budget."""

from __future__ import annotations

import numpy as np
import pytest

from monitor.sae import Dictionary, HookPoint, JumpRelu
from training.discovery.config import DiscoverConfig
from training.discovery.fit import fit_detectors
from training.discovery.prompt import Prompt
from training.discovery.rules import DETECTORS, fitted_rules


def test_noise_is_worth_nothing_on_unseen_sources() -> None:
    """Random latents, random labels: choosing latents by the labels of held-out prompts would show here."""
    rng = np.random.default_rng(0)
    width, latents, count = 16, 600, 120
    encoder = rng.normal(size=(latents, width)).astype(np.float32)
    dictionary = Dictionary(
        w_enc_md=encoder,
        b_enc_m=np.zeros(latents, np.float32),
        w_dec_md=encoder,
        b_dec_d=np.zeros(width, np.float32),
        activation=JumpRelu(np.full(latents, 6.0, np.float32)),
        hook_point=HookPoint(2),
        model="toy",
    )
    areas = []
    for _ in range(4):
        prompts = [Prompt("", bool(n % 2), False, f"{n % 6}") for n in range(count)]
        rows_nd = rng.normal(size=(count * 6, width)).astype(np.float32)
        config = DiscoverConfig(model="toy", saes=("toy",), data=("x",), probe_latents=16)  # type: ignore[arg-type]
        found = fit_detectors("toy", dictionary, rows_nd, np.arange(count + 1) * 6, prompts=prompts, config=config)
        areas.append(found.unseen_sources["sae_probe"])
    assert 0.38 < np.mean(areas) < 0.62


def _config(**changes: float) -> DiscoverConfig:
    return DiscoverConfig(saes=("toy",), data=("x",), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("negatives", "one_threshold", "three", "is_shown"),
    [
        (1000, 4, 2, True),
        (628, 2, 0, True),
        (300, 0, None, True),
        (298, 2, 2, False),
    ],
)
def test_a_rule_flags_no_more_than_the_bound_allows(
    negatives: int, one_threshold: int, three: int | None, is_shown: bool
) -> None:
    """The same negatives come near on all three detectors, so the rule of `warn` terms alone flags 5 % of them."""
    rng = np.random.default_rng(0)
    positive_p = np.arange(negatives + 500) < 500
    base = rng.normal(size=negatives + 500).astype(np.float32)
    scores = dict.fromkeys(DETECTORS, base + positive_p)
    rules = fitted_rules(scores, positive_p, _config(target_fpr=0.01, warn_fpr=0.05))
    flagged = {rule.when: int(rule.flagged_p[~positive_p].sum()) for rule in rules}
    assert all(rule.is_shown is is_shown for rule in rules)
    assert flagged["dense.fire"] == one_threshold
    assert flagged.get("dense.fire or (sae_probe.fire and dense.warn)") == three
    assert "dense.warn and sae_probe.warn and latents.warn" not in flagged
