"""An SAE to be measured, and what its training said of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary
from training.card.card import CARD_JSON


@dataclass(frozen=True)
class Subject:
    """One SAE.

    Attributes:
        name: as it was typed, unique within an evaluation.
        dictionary: in normal form.
        l0_training: active latents per row at the end of training, where its card says so.
        made_from: hashes of the model, tokenizer and data of its training, where its card says so.
    """

    name: str
    dictionary: Dictionary
    l0_training: float | None = None
    made_from: dict[str, str] | None = None


def with_card(name: str, dictionary: Dictionary, folder: Path | None) -> Subject:
    """Takes what it needs from ``card.json`` beside the weights, if there is one that belongs to these weights."""
    if folder is None or not (path := folder / CARD_JSON).is_file():
        return Subject(name, dictionary)
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FeaturewatchError(f"{path} ({error})", "it must be JSON", "remove it, or train the SAE again") from error
    if not isinstance(card, dict) or card.get("sha256") != dictionary.sha256:
        return Subject(name, dictionary)
    l0 = card.get("l0_training")
    known = isinstance(l0, int | float) and math.isfinite(l0)
    return Subject(name, dictionary, float(l0) if known else None, _made_from(card))  # type: ignore[arg-type]


def _made_from(card: dict[str, Any]) -> dict[str, str]:
    settings = card.get("settings")
    found = settings.get("made_from") if isinstance(settings, dict) else None
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def require_comparable(subjects: list[Subject]) -> None:
    """Raises FeaturewatchError unless the SAEs can be measured in one go: other names, and one model."""
    names = [subject.name for subject in subjects]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FeaturewatchError(f"SAE {twice[0]}", "it is given twice", "give each SAE once")
    models = sorted({subject.dictionary.model for subject in subjects if subject.dictionary.model})
    if len(models) > 1:
        raise FeaturewatchError(
            f"SAEs of {len(models)} models ({', '.join(models)})",
            "one evaluation runs one model",
            "evaluate them one model after the other, or name one with --model",
        )
