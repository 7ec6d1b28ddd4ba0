"""Settings of one SAE: what every architecture has, and the architecture's own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from monitor.sae import HookPoint
from training.options import Rule, option, require_all

_BY_DEFAULT = {"learning_rate": 2e-3, "warm_up": 0.05, "decay": 0.4, "beta1": 0.9}


@dataclass(frozen=True)
class SaeOptions:
    """Architecture, size and optimiser. None stands for what the architecture's recipe recommends."""

    architecture: str = option("batchtopk", "Architecture and recipe (docs/training.md lists them).")
    expansion: int = option(8, "Latents as a multiple of the input's width.")
    latents: int = option(0, "Number of latents; 0 takes --expansion times the width.")
    seed: int = option(
        0,
        "Seed of the initial weights and of the order in which the rows of a cache are taken. The first one given is "
        "also that of the harvest, and with --stream of the order of the rows.",
    )
    learning_rate: float | None = option(None, "Peak learning rate of Adam; by default the recipe's, else 0.002.")
    warm_up: float | None = option(
        None, "Share of the steps in which the learning rate rises; by default the recipe's, else 0.05."
    )
    decay: float | None = option(
        None, "Share of the steps, at the end, in which it falls linearly to zero; by default the recipe's, else 0.4."
    )
    beta1: float | None = option(None, "Adam's decay rate of the mean gradient; by default the recipe's, else 0.9.")
    clip: float = option(1.0, "Largest gradient norm.")
    dead_share: float = option(0.05, "A latent is dead when it did not fire for this share of the run's rows.")

    def __post_init__(self) -> None:
        warm_up = _BY_DEFAULT["warm_up"] if self.warm_up is None else self.warm_up
        decay = _BY_DEFAULT["decay"] if self.decay is None else self.decay
        rules: list[Rule] = [
            (self.expansion >= 1, f"expansion {self.expansion}", "it must be at least 1", "give for example 8"),
            (self.latents >= 0, f"latents {self.latents}", "it must not be negative", "give for example 4608"),
            (self.seed >= 0, f"seed {self.seed}", "it must not be negative", "give for example 0"),
            (
                self.learning_rate is None or self.learning_rate > 0,
                f"learning-rate {self.learning_rate}",
                "it must be above 0",
                "give for example 1e-3",
            ),
            (
                warm_up >= 0 and decay >= 0 and (warm_up + decay <= 1 or None in (self.warm_up, self.decay)),
                f"warm-up {warm_up} and decay {decay}",
                "they are shares of the steps that do not overlap",
                "give for example 0.05 and 0.4",
            ),
            (
                self.beta1 is None or 0 <= self.beta1 < 1,
                f"beta1 {self.beta1}",
                "it is from 0 to below 1",
                "give for example 0.9",
            ),
            (self.clip > 0, f"clip {self.clip}", "it must be above 0", "give for example 1"),
            (0 < self.dead_share <= 1, f"dead-share {self.dead_share}", "it is a share", "give for example 0.05"),
        ]
        require_all(rules)

    def resolved(self) -> SaeOptions:
        """With the recipe's recommendations, else the defaults, in the place of None; raises FeaturewatchError."""
        from training.architectures.registry import architecture

        recommended = {**_BY_DEFAULT, **architecture(self.architecture)[0].recommended}
        open_fields: dict[str, Any] = {
            name: value for name, value in recommended.items() if getattr(self, name) is None
        }
        return dataclasses.replace(self, **open_fields)


@dataclass(frozen=True)
class SaeConfig:
    """One SAE to be trained.

    Attributes:
        hook_point: whose rows it gets.
        options: with no None left (`SaeOptions.resolved`).
        settings: of the architecture.
    """

    hook_point: HookPoint
    options: SaeOptions
    settings: Any

    @classmethod
    def of(cls, hook_point: HookPoint, options: SaeOptions | None = None, **settings: Any) -> SaeConfig:
        """With the architecture's own settings by name, e.g. ``k=32``; raises FeaturewatchError."""
        from training.architectures.registry import architecture

        resolved = (options or SaeOptions()).resolved()
        return cls(hook_point, resolved, architecture(resolved.architecture)[1](**settings))

    def latents(self, width: int) -> int:
        return self.options.latents or self.options.expansion * width

    def target_l0(self) -> float | None:
        """Active latents per row that the settings ask for, None where a penalty decides."""
        for name in ("k", "target_l0"):
            value = getattr(self.settings, name, None)
            if value is not None:
                return float(value)
        return None

    def require_fits(self, width: int) -> None:
        """Raises FeaturewatchError when the SAE has too few latents for its target L0."""
        latents, target = self.latents(width), self.target_l0()
        if target is not None:
            name = "k" if hasattr(self.settings, "k") else "target-l0"
            good = target < latents
            require_all(
                [
                    (
                        good,
                        f"{name} {target:g}",
                        f"the SAE has {latents} latents, of which only a few may be active",
                        f"choose one far below, for example {max(1, latents // 128)}",
                    )
                ]
            )

    def as_json(self) -> dict[str, Any]:
        """All settings by their names."""
        return {
            "hook_point": str(self.hook_point),
            **dataclasses.asdict(self.options),
            **dataclasses.asdict(self.settings),
        }
