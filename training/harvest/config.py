"""Settings of a harvest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from training.options import Rule, option, require_all


@dataclass(frozen=True)
class HarvestConfig:
    """What to run through the model and which residuals to keep."""

    model: str = option("", "Hugging Face folder or id of the model.")
    data: tuple[Path, ...] = option(
        (),
        "Text: .jsonl, .parquet or .txt files, plain, .gz or .zst; hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT.",
    )
    hook_points: tuple[str, ...] = option((), "Residual stream sites, e.g. resid_post.14; all in one pass.")
    cache: Path = option(Path("cache"), "Folder of the activation cache.")  # noqa: RUF009 – Path is immutable
    tokens: int = option(4_000_000, "Residual rows to keep for training (excluded rows do not count).")
    context: int = option(256, "Tokens per sequence, BOS included; the rest of a longer conversation is left out.")
    batch_tokens: int = option(4096, "Tokens per forward pass, padding included.")
    chat_share: float = option(0.35, "Share of text windows rendered through the model's chat template.")
    prompt_tokens: int = option(128, "Documents up to this length are always rendered as a chat turn.")
    windows_per_document: int = option(0, "At most this many windows of one document, chosen at random; 0 takes all.")
    outlier_factor: float = option(6.0, "Rows with a norm above this multiple of the median are excluded.")
    heldout_share: float = option(0.02, "Share of documents (by hash) that is held out for the card.")
    document_field: str = option(
        "doc", "Field of a row that names its document: passages of one document are held out together."
    )
    heldout_tokens: int = option(120_000, "At most this many held-out token positions.")
    text_field: str = option(
        "text", "Field of a row that holds the text; rows without it may have turns in messages or conversations."
    )
    documents: int = option(
        0,
        "At most this many documents of each file or data set; 0 reads files whole, data sets as far as needed.",
    )
    packing: bool = option(
        False, "Join documents with EOS and cut full windows, without padding and chat template, instead of one by one."
    )
    keep_bos: bool = option(False, "Train on the first position too. It is an attention sink; see also keep-outliers.")
    keep_special: bool = option(False, "Train on special tokens too: latents will be spent on them.")
    keep_template: bool = option(False, "Train on the chat template's own tokens too, the same ones in every chat.")
    keep_outliers: bool = option(False, "Train on rows of any norm: a handful of them will own the loss.")
    dtype: str = option("auto", "Forward dtype: auto, float32 or bfloat16.")
    activations: str = option(
        "huggingface", "What computes the activations: huggingface, or vllm (as a monitored server does, with the tap)."
    )
    engine_args: str = option("", "With vllm: further arguments of its LLM class as a JSON object.")
    store_dtype: str = option("float16", "Cache dtype: float16, bfloat16 or float32.")
    shard_rows: int = option(262_144, "Rows of one cache shard, on average.")
    seed: int = option(0, "Seed of the document order, the windows and the shuffle.")

    def __post_init__(self) -> None:
        rules: list[Rule] = [
            (bool(self.hook_points), "hook points", "at least one is needed", "add --hook-point resid_post.14"),
            (bool(self.data), "data", "at least one file is needed", "add --data FILE"),
            (self.tokens > 0, f"tokens {self.tokens}", "it must be above 0", "give for example 4000000"),
            (self.context >= 16, f"context {self.context}", "it must be at least 16", "give for example 256"),
            (
                self.batch_tokens >= self.context,
                f"batch-tokens {self.batch_tokens}",
                f"one sequence has up to {self.context} tokens",
                f"give at least {self.context}",
            ),
            (
                self.heldout_tokens >= 2 * self.context,
                f"heldout-tokens {self.heldout_tokens}",
                f"at least two sequences of up to {self.context} tokens are held out",
                f"give at least {2 * self.context}",
            ),
            (
                self.prompt_tokens >= 0,
                f"prompt-tokens {self.prompt_tokens}",
                "it is a number of tokens",
                "give 0 or more",
            ),
            (
                self.windows_per_document >= 0,
                f"windows-per-document {self.windows_per_document}",
                "it is a number of windows",
                "give 0 for all of them or for example 2",
            ),
            (
                self.documents >= 0,
                f"documents {self.documents}",
                "it is a number",
                "give 0 for all or for example 10000",
            ),
            (
                not (self.packing and self.windows_per_document),
                f"packing with windows-per-document {self.windows_per_document}",
                "a packed window has no document of its own",
                "leave one of them out",
            ),
            (self.shard_rows >= 1, f"shard-rows {self.shard_rows}", "it must be above 0", "give for example 262144"),
            (self.seed >= 0, f"seed {self.seed}", "it must not be negative", "give for example 0"),
            (
                self.dtype in ("auto", "float32", "bfloat16"),
                f"dtype {self.dtype!r}",
                "it is auto, float32 or bfloat16",
                "choose one of them",
            ),
            (
                self.activations in ("huggingface", "vllm"),
                f"activations {self.activations!r}",
                "it is huggingface or vllm",
                "choose one of them",
            ),
            (
                not self.engine_args or self.activations == "vllm",
                f"engine-args with activations {self.activations}",
                "they are arguments of vLLM",
                "add --activations vllm or leave them out",
            ),
            (0 <= self.chat_share <= 1, f"chat-share {self.chat_share}", "it is a share", "give 0 to 1"),
            (
                self.outlier_factor > 1,
                f"outlier-factor {self.outlier_factor}",
                "it must be above 1",
                "give for example 6",
            ),
            (
                0 < self.heldout_share < 1,
                f"heldout-share {self.heldout_share}",
                "it is a share",
                "give for example 0.02",
            ),
            (
                self.store_dtype in ("float16", "bfloat16", "float32"),
                f"store-dtype {self.store_dtype!r}",
                "it is float16, bfloat16 or float32",
                "choose one of them",
            ),
        ]
        require_all(rules)

    @property
    def outlier_limit(self) -> float:
        """In medians of the norm."""
        return math.inf if self.keep_outliers else self.outlier_factor
