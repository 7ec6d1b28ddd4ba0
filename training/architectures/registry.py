"""All architectures by name. A new one is one file and one line here."""

from __future__ import annotations

from typing import Any, Final

from monitor.errors import FeaturewatchError
from training.architectures.architecture import Architecture
from training.architectures.batch_top_k import BatchTopK, BatchTopKSettings
from training.architectures.gated import GatedSae, GatedSettings
from training.architectures.jump_relu import JumpReluSae, JumpReluSettings
from training.architectures.jump_relu_tanh import JumpReluTanhSae, JumpReluTanhSettings
from training.architectures.matryoshka import Matryoshka, MatryoshkaSettings
from training.architectures.relu import ReluSae, ReluSettings
from training.architectures.relu_resample import ReluResampleSae, ReluResampleSettings
from training.architectures.top_k import TopK, TopKSettings

ARCHITECTURES: Final[dict[str, tuple[type[Architecture[Any]], type[Any]]]] = {
    TopK.name: (TopK, TopKSettings),
    BatchTopK.name: (BatchTopK, BatchTopKSettings),
    Matryoshka.name: (Matryoshka, MatryoshkaSettings),
    JumpReluSae.name: (JumpReluSae, JumpReluSettings),
    JumpReluTanhSae.name: (JumpReluTanhSae, JumpReluTanhSettings),
    GatedSae.name: (GatedSae, GatedSettings),
    ReluSae.name: (ReluSae, ReluSettings),
    ReluResampleSae.name: (ReluResampleSae, ReluResampleSettings),
}
"""Class and settings class."""


def architecture(name: str) -> tuple[type[Architecture[Any]], type[Any]]:
    """Raises FeaturewatchError for an unknown name."""
    if name not in ARCHITECTURES:
        raise FeaturewatchError(
            f"architecture {name!r}", f"the architectures are {', '.join(ARCHITECTURES)}", "choose one of them"
        )
    return ARCHITECTURES[name]
