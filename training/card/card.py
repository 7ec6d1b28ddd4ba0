"""The card of an SAE: ``card.json`` for programs, ``card.md`` for people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from training.card.left_out import left_out

CARD_JSON = "card.json"
CARD_MARKDOWN = "card.md"


@dataclass(frozen=True)
class Card:
    """Figures of one SAE. Shares are 0 to 1, losses in nats.

    Attributes:
        model: it was trained on.
        hook_point: where.
        latents, width: shape.
        k: target L0 of a TopK or BatchTopK SAE, None for others.
        tokens_seen: training rows, repeats included.
        tokens_unique: training rows in the cache.
        sources: documents and licences per category; no text.
        excluded: positions left out of training, by reason.
        outliers_by_hook_point: rows above the norm limit at each hook point of the harvest.
        outlier_rule: that limit in words.
        l0_training: active latents per row at the end of training.
        l0_inference: active latents per row of the stored SAE on held-out float32 rows.
        threshold: its JumpReLU threshold, in the residual's units.
        fvu_training: unexplained variance at the end of training.
        explained_variance: of the stored SAE on held-out kept rows.
        explained_variance_with_outliers: the same with BOS, template, special and outlier positions.
        heldout_rows, heldout_rows_with_outliers: how many rows these are.
        dead_share: latents that did not fire in the last part of training.
        silent_share: latents that fired on no held-out row.
        density_quantiles: firing rate of the latents at quantiles 0.01, 0.1, 0.5, 0.9, 0.99.
        cross_entropy: clean, spliced, zeroed and averaged loss, tokens, shares recovered; KL divergence spliced in and
            its share recovered.
        harvest_dtype: of the forward pass that gave the training rows.
        stored_dtype: of the weights file.
        settings: of harvest and training, and `made_from`: hashes of model, tokenizer and data;
            `engine`: the vLLM engine that computed the training's rows, empty for Hugging Face.
        seconds: wall time of harvest (all hook points) and training.
        command: repeats the run.
        sha256: of the weights file.
        architecture, recipe: name and one line about it.
        l0_target: active latents per row that the settings ask for, None where a penalty decides.
        activation: of the stored SAE.
        thresholds: smallest and largest, where they differ.
        losses: parts of the loss at the end of training.
        resampled: latents that were resampled, repeats included.
        peak_memory_mib: largest resident memory of the process, harvest and card included; 0 if unknown.
        norm_quantiles: of the norms of content rows per hook point of the harvest; empty if unknown.
    """

    model: str
    hook_point: str
    latents: int
    width: int
    k: int | None
    tokens_seen: int
    tokens_unique: int
    sources: dict[str, Any]
    excluded: dict[str, int]
    outliers_by_hook_point: dict[str, int]
    outlier_rule: str
    l0_training: float
    l0_inference: float
    threshold: float
    fvu_training: float
    explained_variance: float
    explained_variance_with_outliers: float
    heldout_rows: int
    heldout_rows_with_outliers: int
    dead_share: float
    silent_share: float
    density_quantiles: list[float]
    cross_entropy: dict[str, float]
    harvest_dtype: str
    stored_dtype: str
    settings: dict[str, Any]
    seconds: dict[str, float]
    command: str
    sha256: str
    architecture: str = "batchtopk"
    recipe: str = "BatchTopK with an auxiliary loss for dead latents"
    l0_target: float | None = None
    activation: str = "JumpReLU"
    thresholds: list[float] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    resampled: int = 0
    peak_memory_mib: float = 0.0
    norm_quantiles: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def target(self) -> float | None:
        """Active latents per row that the settings ask for, None where a penalty decides."""
        return self.l0_target if self.l0_target is not None else self.k

    def save(self, folder: Path) -> None:
        (folder / CARD_JSON).write_text(json.dumps(asdict(self), indent=2) + "\n")
        (folder / CARD_MARKDOWN).write_text(self.markdown())

    @classmethod
    def load(cls, folder: Path) -> Card:
        """Reads ``card.json``; raises FeaturewatchError when it is missing or not a card."""
        path = folder / CARD_JSON
        if not path.is_file():
            raise FeaturewatchError(
                f"SAE folder {folder}", f"it holds no {CARD_JSON}", "train with `featurewatch train`"
            )
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise FeaturewatchError(
                f"{path} ({error})", "it must be a card that `featurewatch train` wrote", "train the SAE again"
            ) from error

    def rows(self) -> list[tuple[str, str]]:
        """The figures as pairs of name and value, for tables."""
        loss = self.cross_entropy
        return [
            ("model, hook point", f"{self.model}, {self.hook_point}"),
            (
                "shape",
                f"{self.latents:,} latents of width {self.width} ({self.latents / self.width:g}x)"
                + (f", k = {self.k}" if self.k is not None else ""),
            ),
            ("training tokens", f"{self.tokens_seen:,} seen, {self.tokens_unique:,} unique"),
            (
                "L0",
                f"{self.l0_training:.1f} in training, {self.l0_inference:.1f} at inference"
                + (f" (target {self.l0_target:g})" if self.l0_target is not None else ""),
            ),
            (
                "explained variance",
                f"{self.explained_variance:.3f} without BOS, template, special and outlier tokens "
                f"({self.heldout_rows:,} held-out rows), "
                f"{self.explained_variance_with_outliers:.3f} with all tokens ({self.heldout_rows_with_outliers:,})",
            ),
            (
                "cross-entropy",
                f"{loss['clean']:.3f} clean, {loss['spliced']:.3f} spliced in, {loss['zeroed']:.3f} zeroed, "
                f"{loss['averaged']:.3f} averaged ({int(loss['tokens']):,} tokens)",
            ),
            (
                "cross-entropy recovered",
                f"{loss['recovered']:.3f} against zeroed rows, {loss['recovered_from_mean']:.3f} against averaged rows",
            ),
            (
                "dead latents",
                f"{self.dead_share:.1%} silent in the last part of training, "
                f"{self.silent_share:.1%} silent on held-out rows",
            ),
            *self._activation_rows(),
            *self._loss_rows(),
            ("training activations", self._computed_by()),
            ("dtypes", f"forward {self.harvest_dtype}, stored {self.stored_dtype}"),
            ("wall time", ", ".join(f"{name} {seconds:,.0f} s" for name, seconds in self.seconds.items())),
            *self._memory_rows(),
            ("sha256", self.sha256),
        ]

    def _activation_rows(self) -> list[tuple[str, str]]:
        if self.activation != "JumpReLU":
            return [("activation", self.activation)]
        if self.thresholds:
            low, high = self.thresholds
            return [("thresholds", f"{low:.4f} to {high:.4f}, median {self.threshold:.4f}")]
        return [("threshold", f"{self.threshold:.4f}, the same for all latents")]

    def _loss_rows(self) -> list[tuple[str, str]]:
        rows = []
        if self.losses:
            parts = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
            rows.append(("losses at the end of training", parts))
        if self.resampled:
            rows.append(("resampled latents", f"{self.resampled:,}"))
        return rows

    def _memory_rows(self) -> list[tuple[str, str]]:
        if not self.peak_memory_mib:
            return []
        rate = self.tokens_seen / max(self.seconds["training"], 1e-9)
        return [
            ("training speed", f"{rate:,.0f} tokens/s"),
            ("peak memory", f"{self.peak_memory_mib:,.0f} MiB, harvest and card included"),
        ]

    def markdown(self) -> str:
        """The card for people."""
        figures = "\n".join(f"| {name} | {value} |" for name, value in self.rows())
        sources = "\n".join(
            f"| {category} | {entry['documents']:,} | {', '.join(sorted(entry['licences']))} |"
            for category, entry in self.sources.items()
        )
        return f"""# SAE of {self.model} at {self.hook_point}

{self.recipe}, stored as {self.activation} in SAELens layout. The weights were stored as
{self.stored_dtype} and read back for every figure that is not of the training; held-out figures are on float32
activations of rows of the data that were not trained on, L0 and explained variance from other sequences than those that
set the threshold. {self._split()}

| figure | value |
|---|---|
{figures}

Spliced in, zeroed and averaged mean: the rows that the SAE is meant for (no BOS, template, special or outlier
positions) are replaced by the reconstruction, by 0 or by their mean; all other rows stay.

## Positions left out of training

{left_out(self.tokens_unique, self.excluded, self.norm_quantiles)}

{self.outlier_rule}

## Text

| category | documents | licences |
|---|---|---|
{sources}

## Repeat

```
{self.command}
```
"""

    def _computed_by(self) -> str:
        """What computed the rows of the training."""
        engine = self.settings.get("engine")
        if not engine:
            return "Hugging Face"
        return (
            f"vLLM {engine.get('version')} through the tap ({str(engine.get('runner')).upper()} runner, "
            f"{engine.get('device')}, {engine.get('execution')}, quantization {engine.get('quantization')}); "
            "held-out figures and threshold: Hugging Face"
        )

    def _split(self) -> str:
        """How it was decided what is held out, in two lines."""
        field = self.settings["harvest"].get("document_field")
        if not field:
            return (
                "Each row is held out or\nnot by its own hash: where rows are passages of longer documents, a held-out "
                "passage often has neighbours in training."
            )
        return (
            "Documents are held out\nwhole, by a hash of their source and their name in the field "
            f"`{field}`; a row that names no document, by a hash of its text."
        )
