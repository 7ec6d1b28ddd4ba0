"""Every recipe finds the features of a small world, as far as a run of seconds allows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from monitor.errors import FeaturewatchError
from training.architectures.registry import ARCHITECTURES
from training.synthetic.config import WorldConfig
from training.synthetic.ground_truth import GroundTruthConfig, ground_truth, recipe, trained
from training.synthetic.score import score
from training.synthetic.world import World

SMALL = WorldConfig(features=24, width=24, active=1.0, group=4, group_on=0.5, families=0)
SHORT = GroundTruthConfig(rows=8192, epochs=8, batch_rows=256, scored_rows=2000, tanh_sparsity=10.0)


def _chance(world: World) -> float:
    """Mean max cosine of the features with as many random directions."""
    random_md = np.random.default_rng(12345).normal(size=(SMALL.features, SMALL.width))
    random_md /= np.linalg.norm(random_md, axis=1, keepdims=True)
    return float((world.direction_fd @ random_md.T).max(axis=1).mean())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_recipe_finds_most_features(name: str) -> None:
    (scored,) = ground_truth(SMALL, SHORT, [name])
    assert scored[0] == name
    assert _chance(World(SMALL)) < 0.55
    assert scored[1].feature_cosine > 0.75
    assert scored[1].latent_cosine > 0.75
    assert scored[1].fvu < 0.4


def test_training_is_what_finds_them() -> None:
    """The same recipe after one step, on the same rows, scores far lower."""
    world = World(SMALL)
    rows_nd = world.rows(SHORT.rows).x_nd
    short = dataclasses.replace(SHORT, epochs=SHORT.batch_rows / SHORT.rows)
    scored = world.rows(2000, 2)
    untrained = score(trained("batchtopk", world, rows_nd, short), world, scored)
    assert untrained.feature_cosine < 0.6


def test_recipes_get_what_the_world_decides() -> None:
    assert recipe("batchtopk", SMALL, SHORT).settings.k == 1
    assert recipe("jumprelu", SMALL, SHORT).settings.target_l0 == SMALL.active
    assert recipe("relu", SMALL, SHORT).settings.l1 == SHORT.l1
    assert all(recipe(name, SMALL, SHORT).latents(SMALL.width) == SMALL.features for name in ARCHITECTURES)
    with pytest.raises(FeaturewatchError, match="architecture 'vq'"):
        recipe("vq", SMALL, SHORT)
