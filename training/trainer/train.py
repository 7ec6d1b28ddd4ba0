"""Trains SAEs in lockstep from one source of rows; interrupted, it goes on exactly where it was."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.distributed.ranks import OneProcess, Ranks
from training.harvest.compute import forward_device
from training.logs.log import Log, open_logs
from training.progress import ProgressLine
from training.trainer.checkpoint import load_state, save_state
from training.trainer.config import TrainConfig
from training.trainer.rows import Batch, RowSource
from training.trainer.sae_config import SaeConfig
from training.trainer.sae_training import SaeTraining, TrainedSae
from training.trainer.stop import Interrupted, StopRequest, stop_requests

TRAINER_REVISION = 3  # to be raised when the same rows and settings would give other weights than before
CHECKPOINT, FINISHED = "checkpoint.safetensors", "finished.safetensors"
_FIRST_BATCHES = 8


def train_saes_on(
    source: RowSource,
    saes: Mapping[str, SaeConfig],
    config: TrainConfig | None = None,
    *,
    folder: Path | None = None,
    made_from: Mapping[str, Any] | None = None,
    ranks: Ranks | None = None,
) -> dict[str, TrainedSae]:
    """Trains all SAEs on the batches of one source, each step of one beside that of the others.

    Args:
        source: of the rows.
        saes: by name.
        config: of the run; the batch size is the source's.
        folder: keeps checkpoints and logs, per SAE ``<folder>/<name>/logs``; a run that finds its own checkpoint there
            goes on from it, one that is finished is read back. None keeps nothing.
        made_from: what the rows are, in JSON form (a tuple counts as a list): a checkpoint of other rows is refused.
        ranks: the processes that train together.

    Raises:
        FeaturewatchError: settings that do not fit the rows, a loss that is not finite, a folder of another run.
        Interrupted: on SIGTERM or SIGINT, after a checkpoint, when there is a folder.
    """
    settings = dataclasses.replace(config or TrainConfig(), batch_rows=source.batch_rows)
    run = _Lockstep(source, saes, settings, folder=folder, made_from=made_from or {}, ranks=ranks or OneProcess())
    if not run.is_finished:
        # Without a folder nothing could be saved: signals do what they always do.
        with stop_requests() if folder else nullcontext(StopRequest()) as stop:
            run.train(stop)
    return run.results()


class _Lockstep:
    """State of one run."""

    def __init__(
        self,
        source: RowSource,
        saes: Mapping[str, SaeConfig],
        config: TrainConfig,
        *,
        folder: Path | None,
        made_from: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        self._source, self._config, self._folder, self._ranks = source, config, folder, ranks
        self._device = forward_device()
        self._steps = config.steps(source.rows)
        self._configs = dict(saes)
        for sae in saes.values():
            sae.require_fits(source.width_of(sae.hook_point))
        self._settings = settings_of(saes, config, made_from)
        self._seconds = 0.0
        held = self._held(FINISHED)
        self.is_finished = held is not None
        held = held or self._held(CHECKPOINT)
        self._members = self._new() if held is None else self._restored(*held)
        self._logs: dict[str, list[Log]] = {}
        self._log_positions: dict[str, Any] = held[1]["logs"] if held else {}
        self._first = next(iter(self._members.values()))

    def train(self, stop: StopRequest) -> None:
        """The steps that are left; raises Interrupted."""
        self._open_logs()
        saved = time.monotonic()
        total = self._steps * self._config.batch_rows
        started, before = time.monotonic(), self._seconds
        try:
            done = self._first.step_number * self._config.batch_rows
            with ProgressLine(self._title(), total, done=done) as progress:
                while self._first.step_number < self._steps:
                    batch_started = time.monotonic()
                    self._step(self._source.take())
                    step = self._first.step_number
                    self._seconds = before + time.monotonic() - started
                    if self._ranks.first:
                        rate = self._config.batch_rows / max(time.monotonic() - batch_started, 1e-9)
                        self._log(step, rate)
                        progress.update(step * self._config.batch_rows, **self._figures())
                    is_stopped = self._ranks.any_rank(stop.number != 0)
                    if step < self._steps and (is_stopped or self._is_due(step, saved)):
                        self._save(CHECKPOINT)
                        saved = time.monotonic()
                    if is_stopped and step < self._steps:
                        # Another rank may have got the signal.
                        raise Interrupted(stop.number or signal.SIGTERM, step, self._steps)
            self._finish()
            if self._ranks.any_rank(stop.number != 0):
                # In the last step or since: what comes after this training must not begin.
                raise Interrupted(stop.number or signal.SIGTERM, self._steps, self._steps)
        finally:
            for logs in self._logs.values():
                for log in logs:
                    log.close()

    def results(self) -> dict[str, TrainedSae]:
        share = self._seconds / len(self._members)
        return {name: member.result(share) for name, member in self._members.items()}

    def _new(self) -> dict[str, SaeTraining]:
        first = self._source.peek(_FIRST_BATCHES)
        scales, samples = {}, {}
        for point in {config.hook_point for config in self._configs.values()}:
            rows_nd = first[point]
            norm = float(np.linalg.norm(rows_nd, axis=1).mean())
            if not (math.isfinite(norm) and norm > 0):
                raise FeaturewatchError(
                    f"rows at {point} of mean norm {norm}",
                    "they must be finite and not all zero",
                    "check what the rows were made from",
                )
            scales[point] = math.sqrt(rows_nd.shape[1]) / norm
            samples[point] = torch.from_numpy(rows_nd).mul_(scales[point]).to(self._device)
        return {
            name: self._member(config, samples[config.hook_point], scales[config.hook_point])
            for name, config in self._configs.items()
        }

    def _restored(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, SaeTraining]:
        members = {}
        for name, config in self._configs.items():
            width = self._source.width_of(config.hook_point)
            stand_in_nd = torch.randn(16, width, generator=torch.Generator().manual_seed(0)).to(self._device)
            own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
            members[name] = self._member(config, stand_in_nd, facts["saes"][name]["scale"])
            members[name].restore(own, facts["saes"][name])
        self._source.restore(facts["rows"])
        self._seconds = facts["seconds"]
        return members

    def _member(self, config: SaeConfig, sample_nd: Tensor, scale: float) -> SaeTraining:
        return SaeTraining(
            config,
            sample_nd,
            scale=scale,
            steps=self._steps,
            batch_rows=self._config.batch_rows,
            ranks=self._ranks,
        )

    def _step(self, batch: Batch) -> None:
        scaled: dict[HookPoint, Tensor] = {}
        for name, member in self._members.items():
            point = self._configs[name].hook_point
            if point not in scaled:
                scaled[point] = torch.from_numpy(batch[point]).to(self._device).mul_(member.scale)
            member.step(scaled[point])

    def _figures(self) -> dict[str, float]:
        """Means over the SAEs, for the progress line."""
        shown = {"loss": "loss", "FVU": "fvu", "L0": "l0", "dead_share": "dead_share"}
        figures = [member.figures for member in self._members.values()]
        return {title: sum(one[name] for one in figures) / len(figures) for title, name in shown.items()}

    def _title(self) -> str:
        return f"train {next(iter(self._configs))}" if len(self._configs) == 1 else f"train {len(self._configs)} SAEs"

    def _is_due(self, step: int, saved: float) -> bool:
        by_steps = self._config.checkpoint_steps and step % self._config.checkpoint_steps == 0
        by_clock = self._config.checkpoint_minutes and time.monotonic() - saved > 60 * self._config.checkpoint_minutes
        return self._folder is not None and self._ranks.any_rank(bool(by_steps or by_clock))

    def _open_logs(self) -> None:
        if self._folder is None or not self._ranks.first:
            return
        for name, member in self._members.items():
            self._logs[name] = open_logs(
                self._folder / name,
                name=name,
                position=self._log_positions.get(name),
                step=member.step_number,
                tensorboard=self._config.tensorboard,
                wandb_project=self._config.wandb,
                settings=self._configs[name].as_json(),
            )

    def _log(self, step: int, rate: float) -> None:
        if step not in (1, self._steps) and step % self._config.log_steps:
            return
        for name, logs in self._logs.items():
            figures = {"rows": step * self._config.batch_rows, **self._members[name].figures, "rows_per_second": rate}
            for log in logs:
                log.write(step, figures)

    def _finish(self) -> None:
        for name, member in self._members.items():
            density_m = self._ranks.gather_latents(member.result().density_m)
            if density_m is not None:
                for log in self._logs.get(name, []):
                    log.finish(self._steps, density_m.cpu().numpy())
        if self._folder:
            self._save(FINISHED)
            if self._ranks.first:
                (self._folder / CHECKPOINT).unlink(missing_ok=True)

    def _save(self, file: str) -> None:
        if self._folder is None:
            return
        is_checkpoint = file == CHECKPOINT
        tensors = {
            f"{name}/{key}": tensor
            for name, member in self._members.items()
            for key, tensor in member.tensors(optimiser=is_checkpoint).items()
        }
        facts = {
            "settings": self._settings,
            "rows": self._source.position(),
            "seconds": self._seconds,
            "saes": {name: member.facts() for name, member in self._members.items()},
            "logs": {name: [log.position() for log in logs] for name, logs in self._logs.items()},
        }
        if self._ranks.first:
            save_state(self._folder / file, tensors, facts)

    def _held(self, file: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        held = load_state(self._folder / file) if self._folder else None
        if held is not None and held[1].get("settings") != self._settings:
            raise FeaturewatchError(
                f"folder {self._folder}",
                "it holds a training with other settings or on other rows",
                "give another folder, or remove this one",
            )
        return held


def settings_of(saes: Mapping[str, SaeConfig], config: TrainConfig, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """All that the weights depend on, in JSON form: the training's code and settings and what the rows are.

    Raises:
        FeaturewatchError: `made_from` cannot be written as JSON.
    """
    try:
        # As a checkpoint gives it back: with lists for tuples.
        rows = json.loads(json.dumps(dict(made_from), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise FeaturewatchError(
            f"made_from {dict(made_from)!r} ({error})",
            "a checkpoint holds it as JSON, to tell its own rows from others",
            "give texts, finite numbers, and lists and dicts of them",
        ) from error
    return {
        "revision": TRAINER_REVISION,
        "saes": {name: sae.as_json() for name, sae in saes.items()},
        "training": {
            "epochs": config.epochs,
            "batch_rows": config.batch_rows,
            **({"buffer_rows": config.buffer_rows} if config.stream else {}),
        },
        "rows": rows,
    }
