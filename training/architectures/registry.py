"""All architectures by name. A new one is one file and one line here."""

from __future__ import annotations

from typing import Any, Final

from monitor.errors import FeaturewatchError
from training.architectures.architecture import Architecture
from training.architectures.batch_top_k import BatchTopK, BatchTopKSettings

ARCHITECTURES: Final[dict[str, tuple[type[Architecture[Any]], type[Any]]]] = {
    BatchTopK.name: (BatchTopK, BatchTopKSettings),
}
"""Class and settings class."""


def architecture(name: str) -> tuple[type[Architecture[Any]], type[Any]]:
    """Raises FeaturewatchError for an unknown name."""
    if name not in ARCHITECTURES:
        raise FeaturewatchError(
            f"architecture {name!r}", f"the architectures are {', '.join(ARCHITECTURES)}", "choose one of them"
        )
    return ARCHITECTURES[name]
