"""Settings of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.options import option, require_all


@dataclass(frozen=True)
class CompareConfig:
    """What goes through both engines."""

    model: str = option("", "Hugging Face folder or id of the model.")
    data: tuple[Path, ...] = option((), "Text: .jsonl, .parquet or .txt, plain, .gz or .zst, or hf:NAME; repeatable.")
    hook_points: tuple[str, ...] = option((), "Where to compare, e.g. resid_post.14; repeatable.")
    sae: tuple[Path, ...] = option((), "SAE folders at these hook points: do the same latents fire? Repeatable.")
    sequences: int = option(300, "Sequences that go through both, drawn from the text by the seed.")
    context: int = option(256, "Longest sequence in tokens.")
    chat_share: float = option(0.35, "Share of text windows rendered through the model's chat template.")
    batch_tokens: int = option(4096, "Tokens per batch, padding included.")
    reference_dtype: str = option("float32", "Forward dtype of the Hugging Face model: float32 or bfloat16.")
    dtype: str = option("float32", "Dtype of vLLM: float32, float16, bfloat16, or auto, which is the model's own.")
    engine_args: str = option("", "Further arguments of vLLM's LLM class as a JSON object.")
    text_field: str = option("text", "Field of a jsonl row that holds the text.")
    worst: int = option(10, "Positions to list, those that differ most, per hook point.")
    seed: int = option(0, "Seed of the choice of sequences.")

    def __post_init__(self) -> None:
        dtypes = ("float32", "float16", "bfloat16", "auto")
        require_all(
            [
                (bool(self.hook_points), "hook points", "at least one is needed", "add --hook-point resid_post.14"),
                (bool(self.data), "data", "at least one file is needed", "add --data FILE"),
                (self.sequences > 0, f"sequences {self.sequences}", "it must be above 0", "give for example 300"),
                (self.context >= 16, f"context {self.context}", "it must be at least 16", "give for example 256"),
                (0 <= self.chat_share <= 1, f"chat-share {self.chat_share}", "it is a share", "give 0 to 1"),
                (
                    self.batch_tokens >= self.context,
                    f"batch-tokens {self.batch_tokens}",
                    f"one sequence has up to {self.context} tokens",
                    f"give at least {self.context}",
                ),
                (
                    self.reference_dtype in ("float32", "bfloat16"),
                    f"reference-dtype {self.reference_dtype!r}",
                    "it is float32 or bfloat16",
                    "choose one of them",
                ),
                (
                    self.dtype in dtypes,
                    f"dtype {self.dtype!r}",
                    f"it is one of {', '.join(dtypes)}",
                    "choose one of them",
                ),
                (self.worst >= 0, f"worst {self.worst}", "it is a number of positions", "give 0 or more"),
                (self.seed >= 0, f"seed {self.seed}", "it must not be negative", "give for example 0"),
            ]
        )
