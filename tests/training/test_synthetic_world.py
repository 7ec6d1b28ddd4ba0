"""The synthetic world against its own definition, and the score on dictionaries whose score is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, JumpRelu
from training.synthetic.config import WorldConfig
from training.synthetic.score import score
from training.synthetic.world import World

SMALL = WorldConfig(features=24, width=16, active=2.0, power=0.5, group=4, group_on=0.5, families=2, children=2)


def _truth(world: World, chosen: npt.NDArray[np.int64], threshold: float) -> Dictionary:
    """The dictionary that reads each direction with the row of the pseudo-inverse: exact where features <= width."""
    w_dec_md = world.direction_fd[chosen]
    w_enc_md = np.linalg.pinv(w_dec_md).T.astype(np.float32)
    return Dictionary(
        np.ascontiguousarray(w_enc_md),
        np.zeros(len(chosen), np.float32),
        w_dec_md,
        np.zeros(world.config.width, np.float32),
        JumpRelu(np.full(len(chosen), threshold, np.float32)),
        HookPoint(layer=0),
        "made up",
    )


def test_features_fire_as_often_as_they_should() -> None:
    world = World(SMALL)
    fires_nf = world.rows(40_000).strength_nf > 0
    share_f = fires_nf.mean(axis=0)
    sd_f = np.sqrt(world.share_f * (1 - world.share_f) / len(fires_nf))
    assert np.all(np.abs(share_f - world.share_f) < 5 * sd_f)
    assert share_f.sum() == pytest.approx(SMALL.active, rel=0.03)
    roots = np.flatnonzero(world.parent_f < 0)
    slope = np.polyfit(np.log(1 + np.arange(len(roots))), np.log(world.share_f[roots]), 1)[0]
    assert slope == pytest.approx(-SMALL.power, abs=1e-3)


def test_a_child_never_fires_without_its_parent() -> None:
    world = World(SMALL)
    fires_nf = world.rows(20_000).strength_nf > 0
    children = np.flatnonzero(world.parent_f >= 0)
    assert len(children) == SMALL.families * SMALL.children
    for child in children:
        parent_n = fires_nf[:, world.parent_f[child]]
        assert not (fires_nf[:, child] & ~parent_n).any()
        assert fires_nf[parent_n, child].mean() == pytest.approx(SMALL.child_share, abs=0.05)


def test_features_of_a_group_fire_together() -> None:
    fires_nf = World(SMALL).rows(40_000).strength_nf > 0
    share_f = fires_nf.mean(axis=0)
    lift = (fires_nf[:, 0] & fires_nf[:, 1]).mean() / (share_f[0] * share_f[1])
    apart = (fires_nf[:, 0] & fires_nf[:, 5]).mean() / (share_f[0] * share_f[5])
    assert lift == pytest.approx(1 / SMALL.group_on, rel=0.1)
    assert apart == pytest.approx(1.0, rel=0.1)


def test_rows_are_strengths_times_directions_and_noise_of_the_stated_norm() -> None:
    world = World(dataclasses.replace(SMALL, noise=0.2))
    rows = world.rows(5_000)
    left_nd = rows.x_nd - rows.strength_nf @ world.direction_fd
    assert np.sqrt(np.square(left_nd).sum(axis=1).mean()) == pytest.approx(0.2, rel=0.02)
    strong = rows.strength_nf[rows.strength_nf > 0]
    assert strong.mean() == pytest.approx(1.0, rel=0.02)
    np.testing.assert_allclose(np.linalg.norm(world.direction_fd, axis=1), 1.0, rtol=1e-6)


def test_the_same_seed_gives_the_same_rows_and_parts_differ() -> None:
    first, again, other = World(SMALL).rows(100), World(SMALL).rows(100), World(SMALL).rows(100, part=1)
    np.testing.assert_array_equal(first.x_nd, again.x_nd)
    assert not np.array_equal(first.x_nd, other.x_nd)


def _easy() -> World:
    """Fewer features than dimensions, no noise: its own directions read it without a fault."""
    return World(WorldConfig(features=12, width=16, active=1.5, group=1, group_on=1, families=2, children=2, noise=0.0))


def test_the_world_s_own_directions_score_one() -> None:
    world = _easy()
    result = score(_truth(world, np.arange(12), 0.1), world, world.rows(4_000, part=1))
    for name in ("feature_cosine", "latent_cosine", "precision", "recall", "f1"):
        assert getattr(result, name) == pytest.approx(1.0, abs=1e-5), name
    assert result.dead == result.duplicated == result.absorption == result.missed_alone == 0.0
    assert result.l0 == result.true_l0 == pytest.approx(1.5, rel=0.1)
    assert result.fvu < 1e-9


def test_missing_and_doubled_latents_are_counted() -> None:
    world = _easy()
    rows = world.rows(4_000, part=1)
    whole = _truth(world, np.arange(12), 0.1)
    chosen = np.array([0, 0, 1, 2, 3, 4, 5])
    missing = dataclasses.replace(
        whole,
        w_enc_md=whole.w_enc_md[chosen],
        b_enc_m=whole.b_enc_m[chosen],
        w_dec_md=whole.w_dec_md[chosen],
        activation=JumpRelu(np.full(7, 0.1, np.float32)),
    )
    result = score(missing, world, rows)
    assert result.duplicated == pytest.approx(1 / 7)
    # Six features have their own latent, and the doubled one goes to a feature that it does not stand for.
    assert result.recall < 0.65
    assert result.latent_cosine == pytest.approx(1.0, abs=1e-5)
    assert result.feature_cosine < 0.85
    silent = dataclasses.replace(whole, activation=JumpRelu(np.array([0.1] * 11 + [1e3], np.float32)))
    assert score(silent, world, rows).dead == pytest.approx(1 / 12)


def test_a_parent_that_is_silent_beside_its_child_counts_as_absorbed() -> None:
    world = World(dataclasses.replace(_easy().config, children=1))
    child = int(np.flatnonzero(world.parent_f >= 0)[0])
    parent = int(world.parent_f[child])
    whole = _truth(world, np.arange(12), 0.1)
    # The child's latent stands for both: the parent's is pushed below its threshold wherever the child fires.
    w_enc_md = whole.w_enc_md.copy()
    w_enc_md[parent] -= 10 * w_enc_md[child]
    result = score(dataclasses.replace(whole, w_enc_md=w_enc_md), world, world.rows(4_000, part=1))
    assert result.absorption == pytest.approx(1 / 2)  # one of two pairs
    assert result.missed_alone == 0.0


def test_without_hierarchies_there_is_nothing_to_absorb() -> None:
    world = World(dataclasses.replace(_easy().config, families=0))
    assert math.isnan(score(_truth(world, np.arange(12), 0.1), world, world.rows(1_000)).absorption)


def test_what_cannot_be_scored_is_refused() -> None:
    world = _easy()
    rows = world.rows(200)
    with pytest.raises(FeaturewatchError, match="none of 12 latents fires"):
        score(_truth(world, np.arange(12), 1e6), world, rows)
    with pytest.raises(FeaturewatchError, match="the world has 16 dimensions"):
        score(_truth(World(dataclasses.replace(SMALL, width=8)), np.arange(4), 0.1), world, rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"active": 20.0}, "active 20"),
        ({"families": 9, "children": 9}, "families 9 of 9 children"),
        ({"child_share": 1.0}, "child-share 1"),
        ({"noise": -1.0}, "noise -1"),
    ],
)
def test_settings_that_make_no_world_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        dataclasses.replace(SMALL, **change)


def test_a_world_that_would_be_dense_is_refused() -> None:
    with pytest.raises(FeaturewatchError, match="whose most frequent feature fires in"):
        World(WorldConfig(features=24, width=16, active=6.0, power=2.0, group_on=0.25, families=0))
