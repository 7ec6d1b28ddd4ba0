"""Trains recipes on a world and scores what they found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from monitor.sae import Dictionary, HookPoint
from training.architectures.registry import ARCHITECTURES, architecture
from training.options import option, require_all
from training.synthetic.config import WorldConfig
from training.synthetic.score import Score, score
from training.synthetic.world import World
from training.trainer.config import TrainConfig
from training.trainer.export import at_inference, to_dictionary
from training.trainer.rows import ArrayRows
from training.trainer.sae_config import SaeConfig, SaeOptions
from training.trainer.train import train_saes_on

POINT = HookPoint(layer=0)
_TRAINING, _CALIBRATION, _SCORING = range(3)


@dataclass(frozen=True)
class GroundTruthConfig:
    """How the recipes are trained in a world."""

    rows: int = option(262_144, "Rows of the world that are trained on.")
    epochs: float = option(8.0, "Passes over them.")
    batch_rows: int = option(1024, "Rows per step.")
    latents: int = option(0, "Latents of each SAE; 0 takes as many as the world has features.")
    learning_rate: float = option(5e-3, "Peak learning rate of Adam, for every recipe.")
    l1: float = option(2.0, "L1 weight of the ReLU recipes: their defaults are made for models.")
    gated_l1: float = option(10.0, "L1 weight of the gated recipe.")
    tanh_sparsity: float = option(2.0, "Weight of the penalty of jumprelu-tanh.")
    scored_rows: int = option(20_000, "Rows that only the score sees; as many more set thresholds.")

    def __post_init__(self) -> None:
        require_all(
            [
                (self.rows >= 1, f"rows {self.rows}", "it must be at least 1", "give for example 262144"),
                (self.latents >= 0, f"latents {self.latents}", "it must not be negative", "give for example 512"),
                (self.l1 >= 0, f"l1 {self.l1:g}", "it must not be negative", "give for example 2"),
                (self.gated_l1 >= 0, f"gated-l1 {self.gated_l1:g}", "it must not be negative", "give for example 10"),
                (
                    self.tanh_sparsity >= 0,
                    f"tanh-sparsity {self.tanh_sparsity:g}",
                    "it must not be negative",
                    "give for example 2",
                ),
                (
                    self.scored_rows >= 100,
                    f"scored-rows {self.scored_rows}",
                    "it must be at least 100",
                    "give for example 20000",
                ),
            ]
        )


def ground_truth(
    world_config: WorldConfig, config: GroundTruthConfig, recipes: Iterable[str] = tuple(ARCHITECTURES)
) -> Iterator[tuple[str, Score]]:
    """The score of one recipe after the other, on rows that no training saw.

    Recipes with a target L0 get the world's number of active features, those with a penalty its weight from the
    settings, whose defaults were set by hand and not searched for.

    Raises:
        FeaturewatchError: settings that do not fit one another, an unknown recipe, one none of whose latents fires.
    """
    world = World(world_config)
    rows_nd = world.rows(config.rows, _TRAINING).x_nd
    scored = world.rows(config.scored_rows, _SCORING)
    for name in recipes:
        yield name, score(trained(name, world, rows_nd, config), world, scored)


def trained(name: str, world: World, rows_nd: Any, config: GroundTruthConfig) -> Dictionary:
    """The recipe's SAE as it is at inference, its threshold, where it has one, set on further rows of the world."""
    sae = recipe(name, world.config, config)
    source = ArrayRows({POINT: rows_nd}, config.batch_rows, world.config.seed)
    result = train_saes_on(source, {name: sae}, TrainConfig(epochs=config.epochs, batch_rows=config.batch_rows))[name]
    calibration_nd = world.rows(config.scored_rows, _CALIBRATION).x_nd
    return at_inference(to_dictionary(result, "a synthetic world"), sae, calibration_nd)


def recipe(name: str, world: WorldConfig, config: GroundTruthConfig) -> SaeConfig:
    """The recipe with the settings that the world decides; raises FeaturewatchError for an unknown one."""
    options = SaeOptions(
        architecture=name, latents=config.latents or world.features, learning_rate=config.learning_rate
    ).resolved()
    own = architecture(name)[1].__dataclass_fields__
    wanted: dict[str, Any] = {
        "k": max(1, round(world.active)),
        "target_l0": world.active,
        "l1": config.gated_l1 if name == "gated" else config.l1,
    }
    if name == "jumprelu-tanh":
        wanted["sparsity"] = config.tanh_sparsity
    return SaeConfig.of(POINT, options, **{key: value for key, value in wanted.items() if key in own})
