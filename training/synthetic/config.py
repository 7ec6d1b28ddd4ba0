"""Settings of a world of known features."""

from __future__ import annotations

from dataclasses import dataclass

from training.options import option, require_all


@dataclass(frozen=True)
class WorldConfig:
    """Sparse features in fewer dimensions (Elhage et al. 2022, Toy Models of Superposition)."""

    features: int = option(512, "Features of the world.")
    width: int = option(128, "Dimensions they share.")
    active: float = option(4.0, "Features that fire per row, on average.")
    power: float = option(0.5, "The r-th most frequent feature fires in proportion to r to the minus this power.")
    group: int = option(8, "Features of a group that fire together; 1 makes all independent.")
    group_on: float = option(0.25, "Share of the rows in which a group can fire at all; 1 makes all independent.")
    families: int = option(8, "Parents, each with --children features that fire only when it fires.")
    children: int = option(3, "Children of each parent.")
    child_share: float = option(0.3, "Share of the parent's rows in which a child fires.")
    noise: float = option(0.05, "Norm of the noise on a row; a feature's strength is 1 on average.")
    seed: int = option(0, "Seed of the directions and of the rows.")

    def __post_init__(self) -> None:
        in_families = self.families * (1 + self.children)
        require_all(
            [
                (self.features >= 2, f"features {self.features}", "it must be at least 2", "give for example 256"),
                (self.width >= 2, f"width {self.width}", "it must be at least 2", "give for example 128"),
                (
                    0 < self.active <= self.features / 4,
                    f"active {self.active:g}",
                    f"of {self.features} features at most a quarter fire at once in a sparse world",
                    f"give for example {max(1, self.features // 64)}",
                ),
                (0 <= self.power <= 2, f"power {self.power:g}", "it is from 0 to 2", "give for example 0.5"),
                (self.group >= 1, f"group {self.group}", "it must be at least 1", "give for example 8"),
                (0 < self.group_on <= 1, f"group-on {self.group_on:g}", "it is a share", "give for example 0.25"),
                (
                    self.families >= 0 and self.children >= 1 and in_families <= self.features,
                    f"families {self.families} of {self.children} children",
                    f"they need {in_families} of the {self.features} features",
                    "give fewer, or 0 families for a world without hierarchies",
                ),
                (
                    0 < self.child_share < 1,
                    f"child-share {self.child_share:g}",
                    "it is a share below 1",
                    "give for example 0.3",
                ),
                (self.noise >= 0, f"noise {self.noise:g}", "it must not be negative", "give for example 0.05"),
                (self.seed >= 0, f"seed {self.seed}", "it must not be negative", "give for example 0"),
            ]
        )
