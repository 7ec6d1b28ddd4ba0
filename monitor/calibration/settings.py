"""What is promised, and how sure one wants to be of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from monitor.errors import FeaturewatchError


class Scope(Enum):
    """Whose false alarms the target is for."""

    POLICY = "policy"
    """A generation on which some rule fires: what the person on call meets."""
    DETECTOR = "detector"
    """A generation on which that detector reaches fire, whatever the rules make of it."""


class Method(Enum):
    """Which threshold counts as meeting the target."""

    GUARANTEED = "guaranteed"
    """The smallest whose upper bound on the rate is at most the target."""
    EMPIRICAL = "empirical"
    """The smallest whose rate in the sample is at most the target: the true rate is above it every second time."""


@dataclass(frozen=True)
class Settings:
    """Attributes:

    target: share of benign generations that may be flagged.
    confidence: of all bounds and intervals.
    warn_share: share of benign generations that may reach warn; None: five times the target.
    resamples: of the bootstrap behind the interval of an AUROC.
    """

    target: float = 0.01
    confidence: float = 0.95
    method: Method = Method.GUARANTEED
    scope: Scope = Scope.POLICY
    warn_share: float | None = None
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name, value in (("target-fpr", self.target), ("confidence", self.confidence)):
            if not 0 < value < 1:
                raise FeaturewatchError(f"{name} {value:g}", "it is a share between 0 and 1", "give for example 0.01")
        if not self.target <= self.warn < 1:
            raise FeaturewatchError(
                f"warn-fpr {self.warn:g} with target-fpr {self.target:g}",
                "a warning comes no later than a firing, so it is a share from the target to 1",
                f"give for example {min(5 * self.target, 0.5):g}",
            )

    @property
    def warn(self) -> float:
        return min(5 * self.target, (1 + self.target) / 2) if self.warn_share is None else self.warn_share
