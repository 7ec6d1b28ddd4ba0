"""Trains one SAE from cached rows."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.architectures.architecture import Shape, StepContext
from training.architectures.batch_top_k import BatchTopK, BatchTopKSettings
from training.harvest.cache import ActivationCache
from training.harvest.compute import forward_device
from training.progress import ProgressLine
from training.trainer.config import TrainConfig

TRAINER_REVISION = 1  # to be raised when the same rows and settings would give other weights than before
Floats = npt.NDArray[np.float32]
_FIRST_BATCHES = 8
_REPORT_STEPS = 4
_LAST_SHARE = 0.05


@dataclass(frozen=True)
class TrainedSae:
    """Weights for inputs scaled by `scale`, and what training saw.

    Attributes:
        weights: the parameters.
        scale: factor that brings the mean input norm to sqrt(d).
        rows: rows seen, repeats included.
        l0: mean active latents per row over the last steps.
        fvu: mean fraction of variance unexplained over the last steps.
        dead_share: latents that did not fire within the dead window at the end.
        seconds: wall time.
    """

    weights: BatchTopK
    scale: float
    rows: int
    l0: float
    fvu: float
    dead_share: float
    seconds: float


def train_sae(cache: ActivationCache, hook_point: HookPoint, config: TrainConfig) -> TrainedSae:
    """Trains at `hook_point` on all rows of the cache.

    Raises:
        FeaturewatchError: the cache lacks the hook point, has fewer rows than a batch, or k exceeds the latents.
    """
    cache.require(hook_point)
    manifest = cache.manifest
    config.require_fits(manifest.width, manifest.rows)
    steps = int(config.epochs * manifest.rows) // config.batch_rows
    loop = _Loop(cache, hook_point, config, steps)
    with ProgressLine(f"train {hook_point}", steps * config.batch_rows) as progress:
        for step, x_nd in enumerate(itertools.islice(loop.batches(), steps)):
            loop.step(step, x_nd)
            if step < _REPORT_STEPS or step % _REPORT_STEPS == 0 or step == steps - 1:
                progress.update((step + 1) * config.batch_rows, **loop.figures())
    return loop.result()


class _Loop:
    """State of one training run."""

    def __init__(self, cache: ActivationCache, hook_point: HookPoint, config: TrainConfig, steps: int) -> None:
        self._cache, self._hook_point, self._config, self._steps = cache, hook_point, config, steps
        self._device = forward_device()
        self._started = time.monotonic()
        width = cache.manifest.width
        latents = config.expansion * width
        first_nd = np.concatenate(
            list(itertools.islice(cache.batches(hook_point, config.batch_rows, config.seed), _FIRST_BATCHES))
        )
        self._scale = math.sqrt(width) / float(np.linalg.norm(first_nd, axis=1).mean())
        generator = torch.Generator().manual_seed(config.seed)
        sample_nd = torch.from_numpy(first_nd * np.float32(self._scale)).to(self._device)
        self._sae = BatchTopK(
            BatchTopKSettings(config.k, config.aux_weight), Shape(width, latents), sample_nd, generator
        )
        self._adam = torch.optim.Adam(self._sae.parameters().values(), lr=config.learning_rate, fused=True)
        self._fired_at_m = torch.zeros(latents, dtype=torch.int64, device=self._device)
        self._dead_rows = max(config.batch_rows, round(config.dead_share * steps * config.batch_rows))
        self._fvu, self._l0 = np.zeros(steps), np.zeros(steps)
        self._step = 0

    def batches(self) -> Iterator[Tensor]:
        """Scaled rows [n, d], epoch after epoch."""
        for epoch in itertools.count():
            for rows_nd in self._cache.batches(self._hook_point, self._config.batch_rows, self._config.seed, epoch):
                yield torch.from_numpy(rows_nd).to(self._device).mul_(self._scale)

    def step(self, step: int, x_nd: Tensor) -> None:
        rate = self._config.learning_rate_at(step, self._steps)
        for group in self._adam.param_groups:
            group["lr"] = rate
        result = self._sae.step(x_nd, StepContext(step, self._steps, self._dead()))
        self._sae.before_update()
        torch.nn.utils.clip_grad_norm_(self._sae.parameters().values(), self._config.clip)
        self._adam.step()
        self._sae.after_update()
        self._fired_at_m[result.fired_m > 0] = (step + 1) * self._config.batch_rows
        fvu = result.losses["fvu"]
        self._fvu[step], self._l0[step] = fvu, result.l0
        self._step = step + 1
        if not math.isfinite(fvu):
            raise FeaturewatchError(
                f"training at {self._hook_point}, step {step}: loss {fvu}",
                "the loss must stay finite",
                "use a lower --learning-rate and check the cache for damaged rows",
            )

    def figures(self) -> dict[str, float]:
        recent = slice(max(0, self._step - 20), self._step)
        return {
            "loss": float(self._fvu[recent].mean()),
            "L0": float(self._l0[recent].mean()),
            "dead_share": self._dead_share(),
        }

    def result(self) -> TrainedSae:
        last = slice(self._step - max(1, round(_LAST_SHARE * self._step)), self._step)
        return TrainedSae(
            weights=self._sae,
            scale=self._scale,
            rows=self._step * self._config.batch_rows,
            l0=float(self._l0[last].mean()),
            fvu=float(self._fvu[last].mean()),
            dead_share=self._dead_share(),
            seconds=time.monotonic() - self._started,
        )

    def _silent_rows_m(self) -> Tensor:
        return self._step * self._config.batch_rows - self._fired_at_m

    def _dead_share(self) -> float:
        return float((self._silent_rows_m() > self._dead_rows).float().mean())

    def _dead(self) -> Tensor | None:
        """Dead latents, at most a quarter of all (the longest silent) to bound the cost of the auxiliary loss."""
        silent_m = self._silent_rows_m()
        count = int((silent_m > self._dead_rows).sum())
        if not count:
            return None
        return torch.topk(silent_m, min(count, len(silent_m) // 4)).indices.sort().values
