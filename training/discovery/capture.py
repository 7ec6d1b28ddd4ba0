"""Residual rows of prompts, rendered and classed exactly as the server sees them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.policy import TokenClass, TokenClasses
from monitor.sae import HookPoint
from training.discovery.config import DiscoverConfig
from training.discovery.prompt import Prompt
from training.harvest.batches import pad
from training.harvest.loading import load_tokenizer
from training.harvest.residuals import ResidualModel
from training.harvest.tokens import Reason, TokenSequence
from training.identity import model_sha256, tokenizer_sha256
from training.progress import ProgressLine

Floats = npt.NDArray[np.float32]
_VERSION = 2  # to be raised when the same prompts would give other rows than before


@dataclass(frozen=True)
class PromptRows:
    """Content rows of a list of prompts.

    Attributes:
        residuals: float32 [n, d] per hook point; rows of one prompt are consecutive and in order.
        starts_p1: int64 [p + 1], where each prompt's rows begin.
    """

    residuals: dict[HookPoint, Floats]
    starts_p1: npt.NDArray[np.int64]

    @property
    def prompts(self) -> int:
        return len(self.starts_p1) - 1


def capture(config: DiscoverConfig, hook_points: Sequence[HookPoint], prompts: Sequence[Prompt]) -> PromptRows:
    """Runs every prompt as a user turn with the generation prompt, in float32.

    Only content tokens are kept: detectors skip BOS, special, template and system tokens. With a cache folder the rows
    are computed once for the same model weights, tokenizer, chat template, hook points, context and prompts; a change
    of any of them gives a file of another name, and the old one is left alone.
    """
    tokenizer = load_tokenizer(config.model)
    if not tokenizer.chat_template:
        raise FeaturewatchError(
            f"tokenizer of {config.model}", "it has no chat template", "use a model that is served as a chat model"
        )
    if config.cache is None:
        return _run(config, tokenizer, hook_points, prompts)
    file = config.cache / f"{_key(config, tokenizer, hook_points, prompts)}.npz"
    if file.is_file():
        with np.load(file) as stored:
            return PromptRows({point: stored[str(point)] for point in hook_points}, stored["starts"])
    rows = _run(config, tokenizer, hook_points, prompts)
    config.cache.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(part, starts=rows.starts_p1, **{str(point): rows_nd for point, rows_nd in rows.residuals.items()})  # type: ignore[arg-type]
    part.replace(file)
    return rows


def _key(config: DiscoverConfig, tokenizer: Any, hook_points: Sequence[HookPoint], prompts: Sequence[Prompt]) -> str:
    made_from = {
        "version": _VERSION,
        "model": model_sha256(config.model),
        "tokenizer": tokenizer_sha256(tokenizer),
        "context": config.context,
        "hook_points": sorted(map(str, hook_points)),
        "prompts": [prompt.text for prompt in prompts],
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]


def _run(
    config: DiscoverConfig, tokenizer: Any, hook_points: Sequence[HookPoint], prompts: Sequence[Prompt]
) -> PromptRows:
    classes = TokenClasses.from_tokenizer_json(tokenizer_json(tokenizer))
    model = ResidualModel(config.model, hook_points, "float32")
    sequences = [chat_sequence(tokenizer, classes, prompt.text, config.context) for prompt in prompts]
    parts: dict[HookPoint, list[Floats]] = {
        point: [np.empty((0, 0), np.float32)] * len(prompts) for point in hook_points
    }
    total = sum(len(sequence.token_ids_n) for sequence in sequences)
    done = 0
    with ProgressLine("capture", total) as progress:
        for indices in by_length(sequences, config.batch_tokens):
            batch = pad([sequences[index] for index in indices])
            for point, rows_btd in model.residuals(batch.token_ids_bt).items():
                for row, index in enumerate(indices):
                    parts[point][index] = rows_btd[row].numpy()[batch.reasons_bt[row] == Reason.KEPT]
            done += sum(len(sequences[index].token_ids_n) for index in indices)
            progress.update(done)
    lengths = [int((sequence.reasons_n == Reason.KEPT).sum()) for sequence in sequences]
    starts_p1 = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return PromptRows({point: np.concatenate(rows) for point, rows in parts.items()}, starts_p1)


def chat_sequence(tokenizer: Any, classes: TokenClasses, text: str, context: int) -> TokenSequence:
    """The text as a user turn with the generation prompt, at most `context` tokens; what is no content is TEMPLATE."""
    turns = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids_n = np.array(tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"][:context], np.int32)
    classes_n, _ = classes.classify(ids_n, 0)
    reasons_n = np.where(classes_n == TokenClass.CONTENT, Reason.KEPT, Reason.TEMPLATE).astype(np.uint8)
    return TokenSequence(ids_n, reasons_n, False)


def by_length(sequences: Sequence[TokenSequence], batch_tokens: int) -> list[list[int]]:
    """Batches of indices, longest prompts first."""
    batches: list[list[int]] = [[]]
    longest = 0
    for index in sorted(range(len(sequences)), key=lambda item: -len(sequences[item].token_ids_n)):
        if batches[-1] and (len(batches[-1]) + 1) * longest > batch_tokens:
            batches.append([])
        if not batches[-1]:
            longest = len(sequences[index].token_ids_n)
        batches[-1].append(index)
    return batches


def tokenizer_json(tokenizer: Any) -> dict[str, Any]:
    """What ``tokenizer.json`` says."""
    path = Path(tokenizer.name_or_path) / "tokenizer.json"
    text = path.read_text() if path.is_file() else tokenizer.backend_tokenizer.to_str()
    return dict(json.loads(text))
