"""What policies refer to, as the policy room sees it. The implementation that reads files lives at the rim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class SaeInfo:
    """A dictionary: the hook point it reads, its number of latents, the residual width and its weights' hash."""

    hook_point: str
    num_latents: int
    width: int
    sha256: str


@dataclass(frozen=True)
class DenseProbeInfo:
    """A linear probe on the residual stream at `hook_point`."""

    hook_point: str
    width: int
    sha256: str


@dataclass(frozen=True)
class SaeProbeInfo:
    """A linear probe on some latents of the SAE with id `sae`; one weight per latent."""

    sae: str
    latents: tuple[int, ...]
    weights: tuple[float, ...]
    bias: float
    sha256: str


class Sources(Protocol):
    """Looks up what a policy names. Each method raises FeaturewatchError when it is unknown or damaged."""

    def sae(self, sae_id: str) -> SaeInfo: ...

    def labelled_latent(self, sae_id: str, label: str) -> int:
        """Index of the one latent that has this label in the SAE's catalog."""
        ...

    def dense_probe(self, file: str) -> DenseProbeInfo:
        """`file` is relative to the policy file."""
        ...

    def sae_probe(self, file: str) -> SaeProbeInfo:
        """`file` is relative to the policy file."""
        ...
