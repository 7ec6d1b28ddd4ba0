"""The whole training: harvest or stream, train every SAE, measure, write the folders."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary
from training.card.card import Card
from training.card.heldout import (
    chosen_sequences,
    heldout_rows,
    heldout_sequences,
    reporting_half,
    reporting_sequences,
    require_halves,
)
from training.card.make import make_card
from training.command import command_line
from training.distributed.gather import gather_dictionary
from training.distributed.launch import launched_ranks, started_ranks
from training.distributed.ranks import OneProcess, Ranks
from training.evaluation.splice import measure_splice
from training.harvest.cache import ActivationCache
from training.harvest.compute import forward_device
from training.harvest.lock import cache_lock
from training.harvest.manifest import Manifest
from training.harvest.open_model import open_model
from training.harvest.prepare import prepare
from training.harvest.run import harvest
from training.harvest.tokens import TokenSequence
from training.logs.weights_and_biases import require_wandb
from training.output_folder import require_free, write_sae
from training.preflight import check_training
from training.settings.run_config import RunConfig
from training.settings.yaml_file import settings_text
from training.trainer.export import at_inference, rounded, to_dictionary
from training.trainer.rows import CacheRows, RowSource
from training.trainer.sae_config import SaeConfig
from training.trainer.sae_training import TrainingFigures
from training.trainer.stream import StreamRows
from training.trainer.train import settings_of, train_saes_on

_METADATA = {"prepend_bos": True, "exclude_special_tokens": True}
_HEADING = "Repeats the run that made the SAE beside it: featurewatch train --config run.yaml"


@dataclass
class _Made:
    """What the training gave: dictionaries in the stored dtype, still without fitted thresholds, by name.

    Attributes:
        manifest: of the rows.
        sequences: held-out ones, for threshold and card.
        reporting: held-out ones that do not set the threshold, for the cross-entropy.
        logs: folder of each SAE's logs.
    """

    manifest: Manifest
    sequences: Sequence[TokenSequence]
    reporting: Sequence[TokenSequence]
    dictionaries: dict[str, Dictionary] = field(default_factory=dict)
    figures: dict[str, TrainingFigures] = field(default_factory=dict)
    logs: dict[str, Path] = field(default_factory=dict)


def train_saes(config: RunConfig, console: Console) -> dict[str, Path]:
    """Trains all SAEs and returns the folders written, by name.

    A folder appears whole or not at all, and none before all cards are made: one SAE that misses its L0 must not leave
    another one behind.

    Raises:
        FeaturewatchError: bad input, a folder in the way, or a threshold whose L0 misses its target.
        Interrupted: SIGTERM or Ctrl-C during the training; the same call goes on from there.
    """
    require_free(config.folders.values(), replace=config.output.replace)
    require_wandb(config.train.wandb)
    widths = check_training(config)
    latents = [sae.latents(widths[sae.hook_point]) for sae in config.saes.values()]
    _require_cache_for_ranks(config)
    start = started_ranks(config.train.layout, forward_device(), batch_rows=config.train.batch_rows, latents=latents)
    # The other ranks read what the first one writes, and leave when the training is done.
    with start as ranks, cache_lock(config.harvest.cache) if ranks.first else nullcontext():
        made = _from_stream(config, console) if config.train.stream else _from_cache(config, console, ranks)
        if not ranks.first:
            return config.folders
        cards = _measure(config, made)
    _write(config, made, cards, console)
    return config.folders


def _require_cache_for_ranks(config: RunConfig) -> None:
    if config.train.stream and launched_ranks() > 1:
        raise FeaturewatchError(
            f"stream on {launched_ranks()} ranks",
            "they share the rows of one cache",
            "leave --stream out, or start one process",
        )


def _write(config: RunConfig, made: _Made, cards: Mapping[str, Card], console: Console) -> None:
    command = command_line(config)
    run_text = settings_text(config.model_as_typed, config.to_repeat(), config.entries, heading=_HEADING)
    for name, folder in config.folders.items():
        card = dataclasses.replace(cards[name], stored_dtype=config.output.dtype, command=command)
        write_sae(
            made.dictionaries[name], card, folder, config.output.dtype, run_text=run_text, logs=made.logs[name] / "logs"
        )
        console.print(f"[bold]{name}[/bold] → {folder}", soft_wrap=True, highlight=False)
        if off := _off_target(card, config.train.threshold_tolerance):
            console.print(f"  [yellow]{off}[/yellow]", soft_wrap=True, highlight=False)


def _off_target(card: Card, tolerance: float) -> str:
    """A word on an SAE whose own thresholds miss the target L0; one threshold for all would have been fitted to it."""
    if card.target is None or abs(card.l0_inference / card.target - 1) <= tolerance:
        return ""
    return f"L0 at inference is {card.l0_inference:.1f}, the target was {card.target:g}: train for longer"


def _from_cache(config: RunConfig, console: Console, ranks: Ranks) -> _Made:
    """One SAE after the other.

    Reading is a few hundredths of a step's time, so sharing it would gain little; one at a time needs the memory of
    one, leaves finished ones behind when it is interrupted, and no SAE depends on the others.
    """
    manifest = ranks.after_first(lambda: harvest(config.harvest))
    cache = ActivationCache(config.harvest.cache)
    if ranks.first:
        console.print(f"{manifest.rows:,} tokens kept, {manifest.heldout_rows:,} positions held out", highlight=False)
    sequences = heldout_sequences(cache, config.output.card_tokens)
    require_halves(sequences)
    made = _Made(manifest, sequences, reporting_sequences(cache, _loss_tokens(config)))
    rows = {"unique_rows": manifest.rows, "identity": manifest.identity, "settings": manifest.settings}
    for name, sae in config.saes.items():
        source = CacheRows(cache, [sae.hook_point], config.train.batch_rows, sae.options.seed)
        _train(config, made, source, {name: sae}, rows, ranks)
    return made


def _from_stream(config: RunConfig, console: Console) -> _Made:
    """All SAEs in lockstep: each row is computed once, and there is no second time for it."""
    prepared = prepare(config.harvest)
    with open_model(config.harvest, prepared.hook_points, prepared.manifest.forward_dtype) as (model, engine):
        prepared.manifest.engine = engine
        source = StreamRows(prepared, config.harvest, model, config.train.batch_rows, config.train.buffer_rows)
        heldout = source.heldout()
        sequences = chosen_sequences(heldout, config.output.card_tokens)
        require_halves(sequences)
        positions = sum(len(sequence.token_ids_n) for sequence in heldout)
        console.print(f"{positions:,} positions held out", highlight=False)
        made = _Made(prepared.manifest, sequences, reporting_half(chosen_sequences(heldout, 2 * _loss_tokens(config))))
        rows = {"identity": prepared.manifest.identity, "settings": prepared.manifest.settings}
        _train(config, made, source, config.saes, rows, OneProcess())
    return made


def _train(  # noqa: PLR0917
    config: RunConfig,
    made: _Made,
    source: RowSource,
    saes: Mapping[str, SaeConfig],
    made_from: Mapping[str, Any],
    ranks: Ranks,
) -> None:
    """Keeps of each SAE what is needed from here on, on the first rank; the trainer's buffers go."""
    folder = _work_folder(config, saes, made_from)
    found = train_saes_on(source, saes, config.train, folder=folder, made_from=made_from, ranks=ranks)
    for name, trained in found.items():
        dictionary = gather_dictionary(to_dictionary(trained, config.output.name, _METADATA), ranks)
        if dictionary is None:
            continue
        # As it will be read back: thresholds are set on the rounded weights.
        made.dictionaries[name] = rounded(dictionary, config.output.dtype)
        made.figures[name] = trained.figures
        made.logs[name] = folder / name


def _measure(config: RunConfig, made: _Made) -> dict[str, Card]:
    harvest_config = config.harvest
    points = sorted({sae.hook_point for sae in config.saes.values()})
    rows = heldout_rows(harvest_config.model, points, made.sequences, harvest_config.batch_tokens)
    for name, sae in config.saes.items():
        calibration_nd = rows.calibration(sae.hook_point)
        made.dictionaries[name] = at_inference(made.dictionaries[name], sae, calibration_nd, config.train.inference)
    means = {point: rows.mean(point) for point in points}
    losses = measure_splice(harvest_config.model, made.dictionaries, means, made.reporting, harvest_config.batch_tokens)
    return {
        name: make_card(
            made.dictionaries[name],
            sae,
            made.figures[name],
            rows,
            losses[name],
            manifest=made.manifest,
            config=config,
        )
        for name, sae in config.saes.items()
    }


def _loss_tokens(config: RunConfig) -> int:
    return max(config.output.loss_tokens, config.harvest.context)


def _work_folder(config: RunConfig, saes: Mapping[str, SaeConfig], made_from: Mapping[str, Any]) -> Path:
    """Where checkpoints and logs of one training are kept: beside the rows, by all that its weights depend on."""
    settings = json.dumps(settings_of(saes, config.train, made_from), sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
    name = next(iter(saes)).replace("/", "-") if len(saes) == 1 else "stream"
    return config.harvest.cache / "training" / f"{name}-{digest}"
