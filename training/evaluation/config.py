"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.options import Rule, option, require_all

POOLINGS: Final = ("mean", "max")
SELECTIONS: Final = ("difference", "l1")
RENDERINGS: Final = ("auto", "chat", "plain")


@dataclass(frozen=True)
class EvalConfig:
    """What is measured, on what."""

    model: str = option("", "Hugging Face folder, id or alias; by default what the SAE names, if it is here.")
    data: tuple[Path, ...] = option(
        (),
        "Text that the SAE was not trained on: .jsonl, .parquet or .txt, plain, .gz or .zst, or hf:NAME; repeatable.",
    )
    cache: Path | None = option(  # noqa: RUF009
        None, "Instead of --data: activation cache of the training; its held-out text is taken."
    )
    probes: tuple[Path, ...] = option(
        (), "Labelled texts: jsonl(.gz) rows with text, label, split, source; repeatable."
    )
    out: Path = option(Path("eval"), "Folder that gets eval.json and eval.html.")  # noqa: RUF009 – immutable
    replace: bool = option(False, "Overwrite an evaluation that is there.")
    tokens: int = option(60_000, "Token positions for the figures on rows.")
    loss_tokens: int = option(12_000, "Token positions for cross-entropy and KL divergence; 0 leaves them out.")
    context: int = option(256, "Longest sequence in tokens.")
    chat_share: float = option(0.5, "With --data: share of the windows that are rendered as chat turns.")
    heldout_share: float = option(
        0.0, "With --data: only documents that a training with this --heldout-share holds out; 0 takes all."
    )
    document_field: str = option("doc", "With --heldout-share: the training's --document-field.")
    text_field: str = option("text", "Field of a jsonl row that holds the text.")
    outlier_factor: float = option(
        6.0, "With --data: content rows above this multiple of the median norm are outliers."
    )
    batch_tokens: int = option(4096, "Tokens per forward pass, padding included.")
    ks: tuple[int, ...] = option((1, 2, 5, 10, 20, 50), "Latents of a sparse probe; repeatable.")
    pooling: str = option("mean", "How a text's tokens become one row for the probes: mean or max.")
    selection: str = option("difference", "How a probe's latents are chosen: difference (of class means) or l1.")
    probe_texts: int = option(4000, "At most so many texts of a labelled file, drawn by the seed.")
    probe_form: str = option(
        "auto", "How labelled texts are rendered: chat (a user turn), plain, or auto: chat if the model has a template."
    )
    dtype: str = option("float32", "Forward dtype of the figures on rows and of the probes: float32, bfloat16, auto.")
    seed: int = option(0, "Seed of the samples.")
    other_model: bool = option(False, "Measure on another model than the one that the SAE was trained on.")

    def __post_init__(self) -> None:
        given = "both" if self.data and self.cache else "neither"
        rules: list[Rule] = [
            (
                bool(self.data) != (self.cache is not None),
                f"{given} of --data and --cache",
                "the text comes from one of them",
                "give --data FILE with text that the SAE was not trained on, or --cache FOLDER of its training",
            ),
            (self.tokens > 0, f"tokens {self.tokens}", "it must be above 0", "give for example 60000"),
            (self.loss_tokens >= 0, f"loss-tokens {self.loss_tokens}", "it is a number of tokens", "give 0 or more"),
            (self.context >= 16, f"context {self.context}", "it must be at least 16", "give for example 256"),
            (
                self.batch_tokens >= self.context,
                f"batch-tokens {self.batch_tokens}",
                f"one sequence has up to {self.context} tokens",
                f"give at least {self.context}",
            ),
            (0 <= self.chat_share <= 1, f"chat-share {self.chat_share}", "it is a share", "give 0 to 1"),
            (
                0 <= self.heldout_share < 1,
                f"heldout-share {self.heldout_share}",
                "it is a share",
                "give 0 or for example 0.02",
            ),
            (
                self.outlier_factor > 1,
                f"outlier-factor {self.outlier_factor}",
                "it must be above 1",
                "give for example 6",
            ),
            (
                bool(self.ks) and min(self.ks, default=0) >= 1,
                f"k of the probes {list(self.ks)}",
                "each is a number of latents from 1 on",
                "give for example --probe-k 1 --probe-k 5",
            ),
            _one_of("pooling", self.pooling, POOLINGS),
            _one_of("selection", self.selection, SELECTIONS),
            _one_of("probe-form", self.probe_form, RENDERINGS),
            _one_of("dtype", self.dtype, ("float32", "bfloat16", "auto")),
            (
                self.probe_texts >= 20,
                f"probe-texts {self.probe_texts}",
                "it must be at least 20",
                "give for example 4000",
            ),
            (self.seed >= 0, f"seed {self.seed}", "it must not be negative", "give for example 0"),
        ]
        require_all(rules)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> Rule:
    return value in known, f"{name} {value!r}", f"it is {' or '.join(known)}", "choose one of them"
