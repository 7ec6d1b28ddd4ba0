"""What an evaluation found, and ``eval.json``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from training.evaluation.decoder import DecoderFigures
from training.evaluation.latent_sums import Firing
from training.evaluation.next_token import Splice
from training.evaluation.probing import Probe
from training.evaluation.reconstruction import NormBand, Reconstruction

EVAL_JSON: Final = "eval.json"
SCHEMA: Final = 1  # to be raised when a field changes its meaning


@dataclass(frozen=True)
class Probing:
    """Probes on one file of labelled texts.

    Attributes:
        file, sha256: of the texts.
        train, val: texts of either label in the splits, [negative, positive].
        sources: how many the texts name.
        folds: in which sources were left out; 0 where there are too few.
        form: chat or plain.
        probes: on latents, by k, then the baselines.
    """

    file: str
    sha256: str
    train: tuple[int, int]
    val: tuple[int, int]
    sources: int
    folds: int
    form: str
    probes: list[Probe]


@dataclass(frozen=True)
class SaeReport:
    """One SAE.

    Attributes:
        name: as it was typed.
        model, hook_point: as the SAE states them.
        activation: its rule, in words.
        latents, width: shape.
        sha256: of its weights.
        l0_training: active latents per row in training mode, where its card says so.
        reconstruction: on the rows it is meant for.
        reconstruction_with_outliers: the same with outliers.
        reconstruction_everywhere: with BOS, special and template positions too.
        norm_bands: content rows by norm.
        firing, decoder: figures of the latents.
        splice: cross-entropy and KL divergence; None where they were left out.
        probings: per labelled file.
        notes: what a reader must know.
    """

    name: str
    model: str
    hook_point: str
    activation: str
    latents: int
    width: int
    sha256: str
    l0_training: float | None
    reconstruction: Reconstruction
    reconstruction_with_outliers: Reconstruction
    reconstruction_everywhere: Reconstruction
    norm_bands: list[NormBand]
    firing: Firing
    decoder: DecoderFigures
    splice: Splice | None
    probings: list[Probing]
    notes: list[str]


@dataclass(frozen=True)
class EvalReport:
    """All SAEs of one evaluation.

    Attributes:
        model: as it was typed; `model_sha256` of its configuration and weights.
        data: file names and hashes of the text, or the identity of the cache.
        outlier_rule: in words.
        median_norms: of content rows, per hook point.
        settings: of the evaluation.
        versions: of featurewatch and of the libraries that computed it.
        command: repeats it.
        saes: as given.
    """

    model: str
    model_sha256: str
    data: dict[str, str]
    outlier_rule: str
    median_norms: dict[str, float]
    settings: dict[str, Any]
    versions: dict[str, str]
    command: str
    saes: list[SaeReport]
    schema: int = SCHEMA

    def json(self) -> str:
        """Strict JSON: what could not be measured is null."""
        return json.dumps(_plain(asdict(self)), indent=2, allow_nan=False, ensure_ascii=True) + "\n"

    def save(self, folder: Path) -> Path:
        """Writes ``eval.json`` and returns its path."""
        path = folder / EVAL_JSON
        part = path.with_suffix(".part")
        part.write_text(self.json(), encoding="utf-8")
        part.replace(path)
        return path


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)
