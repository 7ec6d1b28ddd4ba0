"""Every penalised recipe learns the directions of a small world, in a few hundred steps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from training.architectures.architecture import Shape, StepContext
from training.architectures.elementwise import Elementwise
from training.architectures.registry import architecture

WIDTH, DIRECTIONS, LATENTS, ACTIVE = 32, 64, 80, 3.0
STEPS, BATCH = 500, 256


class World:
    """Rows are sums of unit directions, twice as many as dimensions, that come and go by themselves."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.directions = torch.nn.functional.normalize(torch.randn(DIRECTIONS, WIDTH, generator=self.generator))
        self.offset = 0.3 * torch.randn(WIDTH, generator=self.generator)
        self.scale = 1.0
        self.scale = float(WIDTH**0.5 / self.rows(4000).norm(dim=1).mean())

    def rows(self, count: int) -> Tensor:
        on = torch.rand(count, DIRECTIONS, generator=self.generator) < ACTIVE / DIRECTIONS
        strength = on * (1 + torch.rand(count, DIRECTIONS, generator=self.generator))
        return self.scale * (strength @ self.directions + self.offset)


@dataclass(frozen=True)
class Recipe:
    """Settings for this world and what they must reach."""

    name: str
    settings: dict[str, float]
    cosine: float
    fvu: float
    most_l0: float
    learning_rate: float = 3e-3


RECIPES = [
    Recipe("relu", {"l1": 1.0}, cosine=0.95, fvu=0.16, most_l0=10.0),
    Recipe("relu-resample", {"l1": 1.0}, cosine=0.95, fvu=0.16, most_l0=10.0),
    Recipe("jumprelu", {"target_l0": ACTIVE}, cosine=0.88, fvu=0.22, most_l0=1.05 * ACTIVE, learning_rate=6e-3),
    Recipe("jumprelu-tanh", {"sparsity": 0.4}, cosine=0.92, fvu=0.25, most_l0=6.0),
    Recipe("gated", {"l1": 2.5}, cosine=0.92, fvu=0.13, most_l0=8.0),
]


def train(recipe: Recipe, world: World) -> Elementwise[object]:
    kind, settings = architecture(recipe.name)
    sae = kind(settings(**recipe.settings), Shape(WIDTH, LATENTS), world.rows(2000), torch.Generator().manual_seed(1))
    assert isinstance(sae, Elementwise)
    adam = torch.optim.Adam(sae.parameters().values(), fused=True)
    last_m = torch.zeros(LATENTS, dtype=torch.int64)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = recipe.learning_rate * min((step + 1) / 25, (STEPS - step) / 150, 1.0)
        dead_j = torch.nonzero(step - last_m > 0.1 * STEPS).flatten()
        result = sae.step(world.rows(BATCH), StepContext(step, STEPS, dead_j))
        sae.before_update()
        torch.nn.utils.clip_grad_norm_(sae.parameters().values(), 1.0)
        adam.step()
        sae.after_update()
        last_m[result.fired_m > 0] = step + 1
        if step + 1 in {round(share * STEPS) for share in sae.revive_shares}:
            silent_j = torch.nonzero(step + 1 - last_m > sae.revive_window * STEPS).flatten()
            sae.revive(world.rows(2000), silent_j, torch.Generator().manual_seed(step))
    return sae


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_known_directions_are_found(recipe: Recipe) -> None:
    world = World()
    sae = train(recipe, world)
    x_nd = world.rows(4000)
    f_nm = sae.encode(x_nd)
    cosine = float((world.directions @ torch.nn.functional.normalize(sae.w_dec_md).T).max(1).values.mean())
    fvu = float((f_nm @ sae.w_dec_md + sae.b_dec_d - x_nd).square().sum() / (x_nd - x_nd.mean(0)).square().sum())
    l0 = float((f_nm > 0).sum()) / len(x_nd)
    assert cosine > recipe.cosine
    assert fvu < recipe.fvu
    assert 0.5 * ACTIVE < l0 < recipe.most_l0
    if "target_l0" in recipe.settings:
        assert l0 == pytest.approx(recipe.settings["target_l0"], rel=0.05)
