"""Files of labelled texts, and all probes on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint
from training.discovery.prompt import Prompt
from training.discovery.prompts import labelled_prompts
from training.evaluation.config import EvalConfig
from training.evaluation.pooled import pooled_texts, text_sequences
from training.evaluation.probing import (
    Probe,
    majority,
    outer_folds,
    probe_on_residual,
    probe_on_words,
    probes_on_latents,
)
from training.evaluation.report import Probing
from training.harvest.activations import ActivationModel
from training.harvest.tokens import TokenSequence
from training.identity import files_sha256

_FEWEST = 5


@dataclass(frozen=True)
class LabelledTexts:
    """The texts of one file that are used.

    Attributes:
        file: its name.
        sha256: of its content.
        prompts: the texts with label, split and source.
        sequences: the same as tokens.
        form: chat or plain.
    """

    file: str
    sha256: str
    prompts: list[Prompt]
    sequences: list[TokenSequence]
    form: str


def read_labelled(path: Path, tokenizer: Any, config: EvalConfig) -> LabelledTexts:
    """Texts of a file, second copies left out, at most `config.probe_texts` drawn by the seed.

    Raises:
        FeaturewatchError: no text, a row without label, or fewer than five texts of a label in a split.
    """
    once = list({prompt.text: prompt for prompt in reversed(list(labelled_prompts(path)))}.values())[::-1]
    if not once:
        raise FeaturewatchError(
            f"labelled file {path}",
            "it holds no text",
            "give rows with text, label (0 or 1), split (train or val) and source",
        )
    order = np.random.default_rng(config.seed).permutation(len(once))[: config.probe_texts]
    prompts, sequences = text_sequences([once[index] for index in order], tokenizer, config)
    found = LabelledTexts(
        path.name, files_sha256([path]), prompts, sequences, "chat" if _is_chat(tokenizer, config) else "plain"
    )
    for is_val in (False, True):
        for label, count in enumerate(_counts(found, is_val)):
            if count < _FEWEST:
                place = f"split {'val' if is_val else 'train'}"
                raise _too_few(path, f"{place} needs {_FEWEST} texts with label {label}", count, len(order), len(once))
    return found


def probe_all(
    model: ActivationModel,
    dictionaries: Mapping[str, Dictionary],
    labelled: Sequence[LabelledTexts],
    config: EvalConfig,
) -> dict[str, list[Probing]]:
    """Per dictionary the probes on every file; the texts of a file are run once for all of them."""
    found: dict[str, list[Probing]] = {name: [] for name in dictionaries}
    for texts in labelled:
        pooled = pooled_texts(model, dictionaries, texts.sequences, config, texts.file)
        residual: dict[HookPoint, Probe] = {
            point: probe_on_residual(rows_pd, texts.prompts, config.seed) for point, rows_pd in pooled.residuals.items()
        }
        shared = [probe_on_words(texts.prompts, config.seed), majority(texts.prompts)]
        for name, dictionary in dictionaries.items():
            sparse = probes_on_latents(pooled.codes[name], texts.prompts, config.ks, config.selection)
            found[name].append(
                Probing(
                    file=texts.file,
                    sha256=texts.sha256,
                    train=_counts(texts, False),
                    val=_counts(texts, True),
                    sources=len({prompt.source for prompt in texts.prompts}),
                    folds=len(outer_folds(texts.prompts)),
                    form=texts.form,
                    probes=[*sparse, residual[dictionary.hook_point], *shared],
                )
            )
    return found


def _too_few(path: Path, need: str, count: int, drawn: int, held: int) -> FeaturewatchError:
    """Of texts that are too few: those of the file, or those of it that were drawn."""
    if drawn < held:
        return FeaturewatchError(
            f"labelled file {path}",
            f"{need}, and of the {drawn:,} texts that were drawn from its {held:,} it holds {count}",
            "raise --probe-texts, or give more texts of both labels in both splits",
        )
    return FeaturewatchError(
        f"labelled file {path}",
        f"{need} and holds {count} (second copies, and texts without words, do not count)",
        "give more texts of both labels in both splits",
    )


def _is_chat(tokenizer: Any, config: EvalConfig) -> bool:
    return config.probe_form != "plain" and bool(tokenizer.chat_template)


def _counts(texts: LabelledTexts, is_val: bool) -> tuple[int, int]:
    labels = [prompt.is_positive for prompt in texts.prompts if prompt.is_val == is_val]
    return labels.count(False), labels.count(True)
