"""Settings of what a training writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.options import option


@dataclass(frozen=True)
class OutputConfig:
    """Where the SAEs go and how they are measured."""

    out: Path = option(Path("zoo"), "Folder that gets one SAE folder per hook point.")  # noqa: RUF009 – immutable
    name: str = option("", "Model name in configuration and card; by default the last part of MODEL.")
    dtype: str = option("float16", "Dtype of the stored weights: float16 or float32.")
    replace: bool = option(False, "Overwrite SAE folders that exist.")
    card_tokens: int = option(60_000, "Held-out tokens for threshold, L0 and explained variance.")
    loss_tokens: int = option(12_000, "Held-out tokens for the cross-entropy.")
