"""The whole training: harvest once, train an SAE per hook point, measure, write the folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from monitor.sae import Dictionary, HookPoint
from training.card.card import Card
from training.card.cross_entropy import measure_cross_entropy
from training.card.heldout import HeldoutRows, heldout_rows, heldout_sequences, reporting_sequences, require_halves
from training.card.make import make_card
from training.command import command_line
from training.harvest.cache import ActivationCache
from training.harvest.config import HarvestConfig
from training.harvest.lock import cache_lock
from training.harvest.run import harvest
from training.output_config import OutputConfig
from training.output_folder import require_free, write_sae
from training.preflight import check_training
from training.trainer.config import TrainConfig
from training.trainer.export import rounded, to_dictionary, with_threshold
from training.trainer.finished import trained_once
from training.trainer.train import TrainedSae


def train_saes(
    harvest_config: HarvestConfig,
    train_config: TrainConfig,
    output: OutputConfig,
    console: Console,
    *,
    model_as_typed: str = "",
) -> dict[HookPoint, Path]:
    """Trains at every hook point of the harvest and returns the folders written.

    A folder appears whole or not at all. `model_as_typed` goes into the card's command in place of the model's folder.

    Raises:
        FeaturewatchError: bad input, a folder in the way, or a threshold whose L0 misses its target.
    """
    command = command_line(model_as_typed or harvest_config.model, harvest_config, train_config, output)
    points = sorted({HookPoint.parse(text) for text in harvest_config.hook_points})
    folders = {point: output.out / str(point) for point in points}
    require_free(folders.values(), replace=output.replace)
    check_training(harvest_config, train_config, output)
    with cache_lock(harvest_config.cache):
        dictionaries, cards = _train(harvest_config, train_config, output, console, points)
    for point in points:
        card = dataclasses.replace(cards[point], stored_dtype=output.dtype, command=command)
        write_sae(dictionaries[point], card, folders[point], output.dtype)
        console.print(f"[bold]{point}[/bold] → {folders[point]}", soft_wrap=True, highlight=False)
    return folders


def _train(
    harvest_config: HarvestConfig,
    train_config: TrainConfig,
    output: OutputConfig,
    console: Console,
    points: Sequence[HookPoint],
) -> tuple[dict[HookPoint, Dictionary], dict[HookPoint, Card]]:
    """All cards before the first folder: one SAE that misses its L0 must not leave another one behind."""
    manifest = harvest(harvest_config)
    cache = ActivationCache(harvest_config.cache)
    console.print(f"{manifest.rows:,} tokens kept, {manifest.heldout_rows:,} positions held out", highlight=False)
    sequences = heldout_sequences(cache, output.card_tokens)
    require_halves(sequences)
    trained = {point: trained_once(cache, point, train_config) for point in points}
    rows = heldout_rows(harvest_config.model, points, sequences, harvest_config.batch_tokens)
    model = output.name or Path(harvest_config.model).name
    dictionaries = {
        point: _stored_form(trained[point], point, rows, model=model, k=train_config.k, dtype=output.dtype)
        for point in points
    }
    losses = measure_cross_entropy(
        harvest_config.model,
        dictionaries,
        reporting_sequences(cache, max(output.loss_tokens, harvest_config.context)),
        harvest_config.batch_tokens,
    )
    cards = {
        point: make_card(
            dictionaries[point], trained[point], rows, losses[point], manifest=manifest, config=train_config
        )
        for point in points
    }
    return dictionaries, cards


def _stored_form(
    trained: TrainedSae, point: HookPoint, rows: HeldoutRows, *, model: str, k: int, dtype: str
) -> Dictionary:
    """The dictionary as it will be read back, with its threshold set on the rounded weights."""
    metadata = {
        "prepend_bos": True,
        "exclude_special_tokens": True,
    }
    dictionary = rounded(to_dictionary(trained, point, model, metadata), dtype)
    return with_threshold(dictionary, rows.calibration(point), k)
