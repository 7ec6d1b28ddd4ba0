"""Labelled prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from monitor.errors import FeaturewatchError
from training.discovery.config import DiscoverConfig
from training.discovery.prompt import Prompt
from training.discovery.selection import selected
from training.harvest.sources.jsonl import read_rows, require_characters

_VAL_SHARE = 0.2


def load_prompts(config: DiscoverConfig) -> list[Prompt]:
    """All prompts that the settings leave, in an order that depends on the seed alone.

    Raises:
        FeaturewatchError: missing files or fields, unknown labels, sources that the data lack, or a split without
            both labels.
    """
    if config.positive is not None and config.negative is not None:
        prompts = [*_lines(config.positive, True), *_lines(config.negative, False)]
    else:
        prompts = [prompt for path in config.data for prompt in labelled_prompts(path)]
    order = np.random.default_rng(config.seed).permutation(len(prompts))
    chosen = selected([prompts[index] for index in order], config)
    for is_val in (False, True):
        for is_positive in (False, True):
            if not any(p.is_val == is_val and p.is_positive == is_positive for p in chosen):
                raise FeaturewatchError(
                    f"data {', '.join(path.name for path in data_files(config))}",
                    f"split {'val' if is_val else 'train'} holds no prompt with label {int(is_positive)}",
                    "give prompts of both labels in both splits",
                )
    return chosen


def data_files(config: DiscoverConfig) -> list[Path]:
    return [*config.data, *(path for path in (config.positive, config.negative) if path is not None)]


def data_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the files' bytes."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def labelled_prompts(path: Path) -> Iterable[Prompt]:
    """Rows of a jsonl(.gz) file with text, label, split and perhaps source and category; blank texts are left out.

    Raises:
        FeaturewatchError: no such file, or a row that lacks one of the three.
    """
    for number, row in read_rows(path):
        text, label, split = row.get("text"), row.get("label"), row.get("split")
        if not isinstance(text, str) or label not in (0, 1) or split not in ("train", "val"):
            raise FeaturewatchError(
                f"{path}:{number} with label {label!r} and split {split!r}",
                "each row needs a text, a label 0 or 1 and a split train or val",
                "repair the row",
            )
        source, category = str(row.get("source", "")), str(row.get("category", ""))
        require_characters(text + source + category, f"{path}:{number}")
        if text.strip():
            yield Prompt(text, label == 1, split == "val", source, category)


def _lines(path: Path, is_positive: bool) -> Iterable[Prompt]:
    if not path.is_file():
        raise FeaturewatchError(f"prompt file {path}", "there is no such file", "check the path")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FeaturewatchError(f"prompt file {path} ({error})", "it must be UTF-8 text", "convert the file") from error
    # Lines that differ in blanks at their ends are one prompt, which must not be in both splits.
    for text in filter(None, map(str.strip, lines)):
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
        yield Prompt(text, is_positive, share < _VAL_SHARE, path.stem)
