"""One SAE in training: weights, optimiser, counters; all of it can be saved and restored exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monitor.errors import FeaturewatchError
from training.architectures.architecture import Architecture, Shape, StepContext
from training.architectures.registry import architecture
from training.distributed.gradient_norm import clip_gradients_
from training.distributed.ranks import OneProcess, Ranks
from training.trainer.sae_config import SaeConfig
from training.trainer.schedule import learning_rate_at

_LAST_SHARE = 0.05
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class TrainingFigures:
    """What the training of an SAE saw.

    Attributes:
        rows: rows seen, repeats included.
        l0, fvu: mean active latents per row and unexplained share of the variance over the last twentieth of the steps.
        losses: every part of the loss, likewise.
        dead_share: latents that did not fire within the dead window at the end.
        seconds: wall time of the training, without what an interrupted run did after its last checkpoint.
        resampled: latents that were resampled, repeats included.
    """

    rows: int
    l0: float
    fvu: float
    losses: dict[str, float]
    dead_share: float
    seconds: float
    resampled: int

    @property
    def rows_per_second(self) -> float:
        return self.rows / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class TrainedSae:
    """A trained SAE.

    Attributes:
        config: what was asked for.
        weights: the parameters, for inputs scaled by `scale`.
        scale: factor that brings the mean input norm to sqrt(d).
        density_m: float32 [m], share of the rows of the last quarter of the run in which each latent fired.
        figures: what the training saw.
    """

    config: SaeConfig
    weights: Architecture[Any]
    scale: float
    density_m: Tensor
    figures: TrainingFigures


class SaeTraining:
    """Steps one SAE.

    Args:
        config: of the SAE.
        sample_nd: scaled rows for data-dependent initial weights, on the device of the training.
        scale: factor of the inputs.
        steps: of the whole run.
        batch_rows: rows of a batch over all ranks.
        ranks: the processes that train it together.

    Raises:
        FeaturewatchError: the target L0 does not fit the number of latents.
    """

    def __init__(
        self,
        config: SaeConfig,
        sample_nd: Tensor,
        *,
        scale: float,
        steps: int,
        batch_rows: int,
        ranks: Ranks | None = None,
    ) -> None:
        config.require_fits(sample_nd.shape[1])
        self.config, self.scale = config, scale
        self._steps, self._batch_rows = steps, batch_rows
        self._ranks: Ranks = ranks or OneProcess()
        self._generator = torch.Generator().manual_seed(config.options.seed)
        shape = Shape(sample_nd.shape[1], config.latents(sample_nd.shape[1]))
        kind, _ = architecture(config.options.architecture)
        self.sae = kind(config.settings, shape, sample_nd, self._generator, self._ranks)
        self._parameters = self.sae.parameters()
        beta1 = config.options.beta1
        if beta1 is None:
            raise ValueError("the options are not resolved")
        self._adam = torch.optim.Adam(list(self._parameters.values()), betas=(beta1, 0.999), fused=True)
        for parameter in self._parameters.values():
            self._adam.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        own_latents = len(self.sae.own_latents(torch.empty(shape.latents)))
        self._fired_at_m = torch.zeros(own_latents, dtype=torch.int64, device=sample_nd.device)
        self._fired_m = torch.zeros_like(self._fired_at_m)
        self._dead_rows = max(batch_rows, round(config.options.dead_share * steps * batch_rows))
        self._revive_steps = {round(share * steps) for share in kind.revive_shares} - {0}
        self._revive_rows = max(batch_rows, round(kind.revive_window * steps * batch_rows))
        self._history = torch.zeros(2, steps, dtype=torch.float64)
        self._last_losses: dict[str, float] = {}
        self._losses_seen = 0
        self._resampled = 0
        self._seconds = 0.0
        self.step_number = 0
        self.figures: dict[str, float] = {}

    def step(self, x_nd: Tensor) -> None:
        """One step on the scaled rows of all ranks; `figures` then says how it went.

        Raises:
            FeaturewatchError: the loss is not finite any more.
        """
        started = time.monotonic()
        step, options = self.step_number, self.config.options
        rate = learning_rate_at(options, step, self._steps)
        for group in self._adam.param_groups:
            group["lr"] = rate
        dead_j, dead = self._dead()
        if step in self._revive_steps:
            self._revive(x_nd)
        result = self.sae.step(self._ranks.own_rows(x_nd), StepContext(step, self._steps, dead_j))
        self.sae.before_update()
        norm = clip_gradients_(self.sae, options.clip)
        self._adam.step()
        self.sae.after_update()
        self._count(result.fired_m)
        losses = result.losses
        self._history[0, step], self._history[1, step] = losses["fvu"], result.l0
        if step >= self._steps - self._last:
            self._losses_seen += 1
            for name, value in losses.items():
                self._last_losses[name] = self._last_losses.get(name, 0.0) + value
        self.step_number = step + 1
        self.figures = {
            **losses,
            "l0": result.l0,
            "dead_share": dead,
            "learning_rate": rate,
            "gradient_norm": norm,
        }
        self._seconds += time.monotonic() - started
        if not (math.isfinite(losses["loss"]) and math.isfinite(norm)):
            raise FeaturewatchError(
                f"training of {options.architecture} at {self.config.hook_point}, step {step}: loss {losses['loss']}, "
                f"gradient norm {norm}",
                "both must stay finite",
                "use a lower --learning-rate and check the rows for damaged values",
            )

    def result(self, seconds: float | None = None) -> TrainedSae:
        """What was trained; `seconds` replaces the time of the steps alone."""
        last = slice(self.step_number - min(self._last, self.step_number), self.step_number)
        counted = self.step_number - self._density_from()
        figures = TrainingFigures(
            rows=self.step_number * self._batch_rows,
            l0=float(self._history[1, last].mean()),
            fvu=float(self._history[0, last].mean()),
            losses={name: total / max(self._losses_seen, 1) for name, total in self._last_losses.items()},
            dead_share=self._share(self._silent_m() > self._dead_rows),
            seconds=self._seconds if seconds is None else seconds,
            resampled=self._resampled,
        )
        density_m = self._fired_m.float() / max(counted * self._batch_rows, 1)
        return TrainedSae(self.config, self.sae, self.scale, density_m, figures)

    def tensors(self, *, optimiser: bool = True) -> dict[str, Tensor]:
        """Of the whole SAE's state, by name; without the optimiser, what a finished SAE needs.

        Every rank must call it; only the first one gets what is spread over them.
        """
        found = {
            name: self._ranks.gather_latents(tensor) if self._is_spread(name, tensor) else tensor
            for name, tensor in self._own_tensors(optimiser=optimiser).items()
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def facts(self) -> dict[str, Any]:
        """The rest of the state, in JSON form."""
        return {
            "step": self.step_number,
            "scale": self.scale,
            "seconds": self._seconds,
            "resampled": self._resampled,
            "last_losses": self._last_losses,
            "losses_seen": self._losses_seen,
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Puts back what `tensors` and `facts` gave."""
        for name, tensor in self._own_tensors(optimiser="generator" in tensors).items():
            if name == "generator":
                self._generator.set_state(tensors[name])
            else:
                spread = self._is_spread(name, tensor)
                tensor.copy_(self.sae.own_latents(tensors[name]) if spread else tensors[name])
        self.step_number, self.scale = int(facts["step"]), float(facts["scale"])
        self._seconds, self._resampled = float(facts["seconds"]), int(facts["resampled"])
        self._last_losses, self._losses_seen = dict(facts["last_losses"]), int(facts["losses_seen"])

    def _own_tensors(self, *, optimiser: bool) -> dict[str, Tensor]:
        found = {f"parameter.{name}": tensor for name, tensor in self._parameters.items()}
        found |= {f"buffer.{name}": tensor for name, tensor in self.sae.buffers().items()}
        found |= {"fired_at": self._fired_at_m, "fired": self._fired_m, "history": self._history}
        if optimiser:
            found["generator"] = self._generator.get_state()
            for name, parameter in self._parameters.items():
                found |= {f"adam.{name}.{key}": self._adam.state[parameter][key] for key in _MOMENTS}
        return found

    def _is_spread(self, name: str, tensor: Tensor) -> bool:
        """Whether each rank has the part of its own latents."""
        if self._ranks.latent_shares == 1 or name in ("generator", "history"):
            return False
        replicated = name.split(".")[1] in self.sae.replicated if "." in name else False
        return not replicated and tensor.ndim > 0 and len(tensor) == len(self._fired_m)

    @property
    def _last(self) -> int:
        return max(1, round(_LAST_SHARE * self._steps))

    def _density_from(self) -> int:
        return self._steps - max(1, self._steps // 4)

    def _count(self, fired_m: Tensor) -> None:
        self._fired_at_m[fired_m > 0] = (self.step_number + 1) * self._batch_rows
        if self.step_number >= self._density_from():
            self._fired_m += fired_m

    def _silent_m(self) -> Tensor:
        """Rows since each of this rank's latents last fired."""
        return self.step_number * self._batch_rows - self._fired_at_m

    def _dead(self) -> tuple[Tensor | None, float]:
        """This rank's dead latents, at most a quarter of its latents (the longest silent) to bound the cost of the
        auxiliary loss, and the share of dead ones among all latents."""
        silent_m = self._silent_m()
        dead_m = silent_m > self._dead_rows
        share = self._share(dead_m)
        if not share:
            return None, share
        count = min(int(dead_m.sum()), len(silent_m) // 4)
        return torch.topk(silent_m, count).indices.sort().values, share

    def _share(self, mask_m: Tensor) -> float:
        return float(self._ranks.sum_latents_(mask_m.sum().float())) / self.sae.shape.latents

    def _revive(self, x_nd: Tensor) -> None:
        """Where the recipe resamples, the optimiser forgets what it knew of these latents."""
        dead_j = (self._silent_m() > self._revive_rows).nonzero().flatten()
        for name in self.sae.revive(x_nd, dead_j, self._generator):
            state = self._adam.state[self._parameters[name]]
            for key in ("exp_avg", "exp_avg_sq"):
                state[key][dead_j] = 0.0
        self._fired_at_m[dead_j] = self.step_number * self._batch_rows
        self._resampled += int(self._ranks.sum_latents_(torch.tensor(float(len(dead_j)), device=x_nd.device)))
