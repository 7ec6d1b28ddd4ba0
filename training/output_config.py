"""Settings of what a training writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.options import option, require_all


@dataclass(frozen=True)
class OutputConfig:
    """Where the SAEs go and how they are measured."""

    out: Path = option(Path("zoo"), "Folder that gets one SAE folder per hook point.")  # noqa: RUF009 – immutable
    name: str = option("", "Model name in configuration and card; by default the last part of MODEL.")
    dtype: str = option("float16", "Dtype of the stored weights: float16 or float32.")
    replace: bool = option(False, "Overwrite SAE folders that exist.")
    card_tokens: int = option(60_000, "Held-out tokens for threshold, L0 and explained variance.")
    loss_tokens: int = option(12_000, "Held-out tokens for the cross-entropy.")

    def __post_init__(self) -> None:
        require_all(
            [
                (
                    self.dtype in ("float16", "float32"),
                    f"weights-dtype {self.dtype!r}",
                    "it is float16 or float32",
                    "choose one of them",
                ),
                (
                    self.card_tokens > 0,
                    f"card-tokens {self.card_tokens}",
                    "it must be above 0",
                    "give for example 60000",
                ),
                (
                    self.loss_tokens > 0,
                    f"loss-tokens {self.loss_tokens}",
                    "it must be above 0",
                    "give for example 12000",
                ),
            ]
        )
