"""What a run would do: rows, SAEs, memory, disk and time, found out without writing anything."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.harvest.compute import forward_device
from training.harvest.disk import bytes_needed, nearest_folder
from training.harvest.manifest import MANIFEST, Manifest
from training.harvest.open_model import open_model
from training.harvest.prepare import Prepared, prepare
from training.harvest.run import require_room_for_rows
from training.harvest.tokens import Reason
from training.logs.weights_and_biases import require_wandb
from training.output_folder import require_free
from training.preflight import check_training
from training.settings.run_config import RunConfig
from training.trainer.sae_config import SaeConfig
from training.trainer.sae_training import SaeTraining

_PROBE_BATCHES = 3
_PROBE_STEPS = 3


@dataclass(frozen=True)
class PlannedSae:
    """One SAE.

    Attributes:
        name: its folder below the output folder.
        architecture: by name.
        width, latents: shape.
        steps: of its training.
        memory: bytes of weights, gradients, optimiser and the largest buffers.
        step_seconds: of one step, measured.
    """

    name: str
    architecture: str
    width: int
    latents: int
    steps: int
    memory: int
    step_seconds: float


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        rows: in words: from which cache or stream, how many.
        saes: in the order in which they are trained.
        batch_rows: rows per step.
        memory: bytes of the largest part, estimated.
        disk: bytes that the run will take beside what is there: rows, weights, and checkpoints at their most.
        free: bytes on the disk of the cache.
        harvest_seconds: of the forward passes that are left; 0 for none, None where unknown.
        train_seconds: of all steps.
    """

    rows: str
    saes: tuple[PlannedSae, ...]
    batch_rows: int
    memory: int
    disk: int
    free: int
    harvest_seconds: float | None
    train_seconds: float


def make_plan(config: RunConfig) -> Plan:
    """Checks all that a run checks before it starts, then measures a few forward passes and steps.

    Raises:
        FeaturewatchError: whatever would end the run before it starts.
    """
    require_free(config.folders.values(), replace=config.output.replace)
    require_wandb(config.train.wandb)
    widths = check_training(config)
    prepared = prepare(config.harvest)
    held = _held(config, prepared.manifest)
    rows = held.rows if held and held.complete else config.harvest.tokens
    steps = config.train.steps(rows)
    left = _rows_left(config, held, steps)
    if left and not config.train.stream:
        require_room_for_rows(config.harvest, held or prepared.manifest)
    forward = None if not left else _rows_per_second(config, prepared)
    saes = tuple(_planned(name, sae, widths[sae.hook_point], steps, config) for name, sae in config.saes.items())
    row_bytes = bytes_needed(1, widths.values(), config.harvest.store_dtype)
    at_once = sum(sae.memory for sae in saes) if config.train.stream else max(sae.memory for sae in saes)
    shards = row_bytes * (config.train.buffer_rows if config.train.stream else 2 * config.harvest.shard_rows)
    heldout = 8 * sum(widths.values()) * config.output.card_tokens
    return Plan(
        rows=_in_words(config, held, rows),
        saes=saes,
        batch_rows=config.train.batch_rows,
        memory=max(at_once + shards, heldout),
        disk=(0 if config.train.stream else left * row_bytes) + _weight_bytes(saes, at_once=config.train.stream),
        free=shutil.disk_usage(nearest_folder(config.harvest.cache)).free,
        harvest_seconds=0.0 if not left else (left / forward if forward else None),
        train_seconds=sum(sae.step_seconds * sae.steps for sae in saes),
    )


def _held(config: RunConfig, new: Manifest) -> Manifest | None:
    """The manifest of the rows that the cache holds; raises FeaturewatchError when they are of something else."""
    if config.train.stream or not (config.harvest.cache / MANIFEST).is_file():
        return None
    held = Manifest.load(config.harvest.cache)
    held.require_same(new, config.harvest.cache)
    return held


def _rows_left(config: RunConfig, held: Manifest | None, steps: int) -> int:
    """Rows that the model is still to compute; a stream computes them anew in each epoch."""
    if config.train.stream:
        return steps * config.train.batch_rows
    if held is None:
        return config.harvest.tokens
    return 0 if held.complete else max(0, config.harvest.tokens - held.rows)


def _weight_bytes(saes: Sequence[PlannedSae], *, at_once: bool) -> int:
    """The most that weights take: finished ones are kept in the cache folder and written to the output.

    A checkpoint holds them with two moments each, and lies twice on the disk while it is replaced.
    """
    sizes = [8 * sae.latents * sae.width for sae in saes]
    trained_together = sum(sizes) if at_once else max(sizes)
    return max(2 * sum(sizes), sum(sizes) - trained_together + 6 * trained_together)


def _in_words(config: RunConfig, held: Manifest | None, rows: int) -> str:
    if config.train.stream:
        return f"{rows:,} rows streamed through a buffer of {config.train.buffer_rows:,}"
    if held is None:
        return f"{rows:,} rows harvested into {config.harvest.cache}"
    if held.complete:
        return f"{rows:,} rows of the cache {config.harvest.cache}"
    return f"{rows:,} rows, {held.rows:,} of them in the cache {config.harvest.cache} already"


def _rows_per_second(config: RunConfig, prepared: Prepared) -> float | None:
    """Kept rows per second of the forward pass; None for an engine, which takes minutes to start."""
    if config.harvest.activations != "huggingface":
        return None
    kept, seconds = 0, 0.0
    with open_model(config.harvest, prepared.hook_points, prepared.manifest.forward_dtype) as (model, _):
        for number, batch in enumerate(prepared.source):
            started = time.monotonic()
            model.residuals(batch.token_ids_bt, batch.lengths_b)
            if number:  # the first pass warms up
                seconds += time.monotonic() - started
                kept += int((batch.reasons_bt == Reason.KEPT).sum())
            if number == _PROBE_BATCHES:
                break
    return kept / seconds if seconds and kept else None


def _planned(name: str, sae: SaeConfig, width: int, steps: int, config: RunConfig) -> PlannedSae:
    latents, batch_rows = sae.latents(width), config.train.batch_rows
    return PlannedSae(
        name=name,
        architecture=sae.options.architecture,
        width=width,
        latents=latents,
        steps=steps,
        # Encoder and decoder, each with gradient and two moments; pre-activations and a few copies of the batch.
        memory=4 * (8 * latents * width + batch_rows * (latents + 4 * width)),
        step_seconds=_step_seconds(sae, width, batch_rows),
    )


def _step_seconds(sae: SaeConfig, width: int, batch_rows: int) -> float:
    """Of a step on random rows, with an optimiser and all latents alive."""
    x_nd = torch.randn(batch_rows, width, generator=torch.Generator().manual_seed(0)).to(forward_device())
    training = SaeTraining(sae, x_nd, scale=1.0, steps=1000, batch_rows=batch_rows)
    training.step(x_nd)
    started = time.monotonic()
    for _ in range(_PROBE_STEPS):
        training.step(x_nd)
    return (time.monotonic() - started) / _PROBE_STEPS
