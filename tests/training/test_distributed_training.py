"""Two ranks against one, for every architecture and both layouts: the same SAE, the same counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from support.two_ranks import TwoRanks
from torch import Tensor

from monitor.sae import Dictionary, HookPoint
from training.architectures.registry import ARCHITECTURES
from training.distributed.gather import gather_dictionary, gather_parameters
from training.distributed.ranks import OneProcess, Ranks
from training.distributed.torch_ranks import DataParallelRanks, LatentShardedRanks
from training.synthetic.config import WorldConfig
from training.synthetic.world import World
from training.trainer.sae_config import SaeConfig, SaeOptions
from training.trainer.sae_training import SaeTraining

POINT = HookPoint(layer=0)
BATCH, STEPS, WIDTH, LATENTS = 64, 12, 16, 40
# What the recipes' own defaults, made for models, would need longer runs for.
SETTINGS = {"batchtopk": {"k": 3}, "topk": {"k": 3}, "matryoshka": {"k": 3}, "jumprelu": {"target_l0": 3.0}}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Outcome:
    """What a rank has after the training; `parameters` and `dictionary` on the first rank only."""

    own: dict[str, Tensor]
    replicated: dict[str, Tensor]
    parameters: dict[str, Tensor] | None
    dictionary: Dictionary | None
    density_m: Tensor | None
    figures: list[dict[str, float]]


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[TwoRanks]:
    ranks = TwoRanks()
    yield ranks
    ranks.close()


def train(name: str, layout: str) -> Outcome:
    """A dozen steps on a small world, most of them with dead latents."""
    ranks: Ranks = {
        "one": OneProcess,
        "data": lambda: DataParallelRanks(CPU),
        "latents": lambda: LatentShardedRanks(CPU),
    }[layout]()
    world = World(WorldConfig(features=32, width=WIDTH, active=2.0, group=4, group_on=0.5, families=0))
    x_nd = torch.from_numpy(world.rows(STEPS * BATCH).x_nd)
    x_nd *= WIDTH**0.5 / x_nd.norm(dim=1).mean()
    options = SaeOptions(architecture=name, latents=LATENTS, learning_rate=1e-3, dead_share=1 / STEPS)
    config = SaeConfig.of(POINT, options, **SETTINGS.get(name, {}))
    training = SaeTraining(config, x_nd[: 2 * BATCH], scale=1.0, steps=STEPS, batch_rows=BATCH, ranks=ranks)
    _silence(training)
    figures = []
    for batch_nd in x_nd.split(BATCH):
        training.step(batch_nd)
        figures.append(training.figures)
    sae = training.sae
    density_m = ranks.gather_latents(training.result().density_m)
    dictionary = gather_dictionary(sae.export(1.0, POINT, "made up", {}), ranks)
    parameters = sae.parameters()
    return Outcome(
        own=parameters,
        replicated={key: value for key, value in parameters.items() if key in sae.replicated},
        parameters=gather_parameters(sae),
        dictionary=dictionary,
        density_m=density_m,
        figures=figures,
    )


@torch.no_grad()
def _silence(training: SaeTraining) -> None:
    """Makes a few latents dead: all of them on the first rank when latents are shared out, none on the second."""
    wanted_m = torch.zeros(LATENTS)
    wanted_m[[1, 4, 5, 9, 13]] = -20.0
    for name, parameter in training.sae.parameters().items():
        if name in ("b_enc", "b_gate", "b_mag"):
            parameter.add_(training.sae.own_latents(wanted_m))


@pytest.fixture(scope="module")
def alone() -> dict[str, Outcome]:
    return {name: train(name, "one") for name in ARCHITECTURES}


@pytest.mark.parametrize("layout", ["data", "latents"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_two_ranks_train_the_sae_that_one_trains(
    two_ranks: TwoRanks, alone: dict[str, Outcome], name: str, layout: str
) -> None:
    one = alone[name]
    first, second = two_ranks.run(train, name, layout)
    assert one.parameters is not None
    assert first.parameters is not None
    assert second.parameters is second.dictionary is None
    for key, expected in one.parameters.items():
        torch.testing.assert_close(
            first.parameters[key], expected, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )
    assert one.density_m is not None
    torch.testing.assert_close(first.density_m, one.density_m, rtol=0, atol=0)
    for step, (ours, theirs, expected) in enumerate(zip(first.figures, second.figures, one.figures, strict=True)):
        assert ours == theirs, f"step {step}: the ranks disagree"
        assert ours == pytest.approx(expected, rel=1e-3, abs=1e-6), f"step {step}"


@pytest.mark.parametrize("layout", ["data", "latents"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_every_rank_has_whole_is_the_same_bit_for_bit(two_ranks: TwoRanks, name: str, layout: str) -> None:
    first, second = two_ranks.run(train, name, layout)
    shared = [(outcome.own if layout == "data" else outcome.replicated) for outcome in (first, second)]
    assert shared[0]
    for key in shared[0]:
        assert torch.equal(shared[0][key], shared[1][key]), key
    sharded = set(first.own) - set(first.replicated)
    assert all(len(first.own[key]) == (LATENTS if layout == "data" else LATENTS // 2) for key in sharded)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_gathered_dictionary_is_the_whole_one(two_ranks: TwoRanks, alone: dict[str, Outcome], name: str) -> None:
    gathered, whole = two_ranks.run(train, name, "latents")[0].dictionary, alone[name].dictionary
    assert gathered is not None
    assert whole is not None
    assert type(gathered.activation) is type(whole.activation)
    # As far apart as the parameters above; no latent is so close to its threshold that rounding decides.
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    for tensor in ("w_enc_md", "b_enc_m", "w_dec_md", "b_dec_d"):
        close(getattr(gathered, tensor), getattr(whole, tensor), err_msg=tensor)
    x_nd = World(WorldConfig(features=32, width=WIDTH, active=2.0, group=4, group_on=0.5, families=0)).rows(50, 1).x_nd
    f_nm = whole.encode(x_nd)
    assert np.count_nonzero(f_nm)
    close(gathered.encode(x_nd), f_nm)
    close(gathered.decode(gathered.encode(x_nd)), whole.decode(f_nm))


def test_dead_latents_took_part(alone: dict[str, Outcome]) -> None:
    """What the tests above compare includes the auxiliary losses, and a rank without dead latents beside one with."""
    for name, outcome in alone.items():
        assert max(figures["dead_share"] for figures in outcome.figures) >= 5 / LATENTS, name
        if "aux" in outcome.figures[-1]:
            assert max(figures.get("aux", 0.0) for figures in outcome.figures) > 0, name
