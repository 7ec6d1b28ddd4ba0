"""What every trainable SAE has in common: parameters, one step, an export to the normal form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monitor.sae import Dictionary, HookPoint
from training.distributed.ranks import OneProcess, Ranks

Floats = npt.NDArray[np.float32]
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Shape:
    """Width d of the input and latents m of the whole dictionary, over all ranks."""

    width: int
    latents: int


@dataclass(frozen=True)
class StepContext:
    """Where in the run a step is.

    Attributes:
        step: from 0.
        steps: of the whole run; coefficients that warm up or anneal go by ``step / steps``.
        dead_j: int64, ascending: this rank's latents that count as dead and take part in the auxiliary loss. None when
            no rank has any; a rank may have none beside others that have some, and must then make the same calls.
    """

    step: int
    steps: int
    dead_j: Tensor | None = None


@dataclass(frozen=True)
class StepResult:
    """Figures of one step, over the rows and latents of all ranks unless said otherwise.

    Attributes:
        losses: what was minimised as ``loss`` and its parts, before their weights, under short names (``aux``,
            ``sparsity``); ``fvu`` is always there: the squared error as a share of the batch's variance.
        l0: active latents per row.
        fired_m: int64 [m], in how many rows each of this rank's latents was active.
    """

    losses: dict[str, float]
    l0: float
    fired_m: Tensor


class Architecture(ABC, Generic[Settings]):
    """A trainable SAE with float32 master parameters and hand-written gradients.

    Input rows are scaled such that their mean norm is sqrt(d). An instance has its share of the latents when they are
    spread over ranks (``ranks.latent_shares``); the initial weights are drawn for the whole dictionary first, so that
    every layout starts from the same ones.

    Args:
        settings: of this architecture, a frozen dataclass made with `training.options.option`.
        shape: of the whole dictionary.
        sample_nd: scaled rows from the data, on the device of the training, for data-dependent initial values.
        generator: of the initial weights, on the CPU.
        ranks: the processes that train together.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """One line for cards and help: what it is and its source."""
    needs_threshold: ClassVar[bool] = False
    """The export is a JumpReLU whose one threshold is fitted on held-out rows after the training."""
    replicated: ClassVar[frozenset[str]] = frozenset({"b_dec"})
    """The parameters that every rank has whole when the latents are shared out; the others are sharded."""
    recommended: ClassVar[Mapping[str, float]] = {}
    """Where the recipe wants another optimiser or schedule than the defaults: fields of `SaeOptions`
    (training/trainer/sae_config.py), for example ``{"learning_rate": 5e-4, "beta1": 0.0}``."""

    revive_shares: ClassVar[tuple[float, ...]] = ()
    """Shares of the run after which the trainer calls `revive`, with the latents that were silent for
    `revive_window` of the run's rows."""
    revive_window: ClassVar[float] = 0.0

    def __init__(
        self,
        settings: Settings,
        shape: Shape,
        sample_nd: Tensor,
        generator: torch.Generator,
        ranks: Ranks | None = None,
    ) -> None:
        self.settings = settings
        self.shape = shape
        self.device = sample_nd.device
        self.ranks: Ranks = ranks or OneProcess()
        self.initialise(sample_nd, generator)
        for parameter in self.parameters().values():
            parameter.grad = torch.zeros_like(parameter)

    @abstractmethod
    def initialise(self, sample_nd: Tensor, generator: torch.Generator) -> None:
        """Sets the parameters, contiguous float32 on `self.device`."""

    @abstractmethod
    def parameters(self) -> dict[str, Tensor]:
        """By name; these tensors are what the optimiser changes in place. A first dimension of m is sharded."""

    def buffers(self) -> dict[str, Tensor]:
        """Further state that an exact resume needs, by name; restored in place."""
        return {}

    @abstractmethod
    def step(self, x_nd: Tensor, context: StepContext) -> StepResult:
        """Forward and backward over this rank's rows; fills the gradient of every parameter, summed over all ranks."""

    def before_update(self) -> None:
        """Called between the step and gradient clipping, for projections of the gradient."""

    def after_update(self) -> None:
        """Called after the optimiser, for constraints on the parameters."""

    def revive(self, x_nd: Tensor, dead_j: Tensor, generator: torch.Generator) -> list[str]:
        """Resamples dead latents where the recipe asks for it; returns the parameters whose optimiser state restarts
        for `dead_j`.

        Args:
            x_nd: scaled rows, the same on every rank.
            dead_j: this rank's latents that are to start anew. Every rank must make the call, also with none.
            generator: in the same state on every rank.
        """
        del x_nd, dead_j, generator
        return []

    @abstractmethod
    def export(self, scale: float, hook_point: HookPoint, model: str, metadata: dict[str, Any]) -> Dictionary:
        """The normal form for unscaled inputs, everything foldable folded; on sharded ranks, of this rank's latents.

        The decoder's rows have norm 1, so that a latent's activation is in the input's own units.

        Args:
            scale: factor by which the inputs of the training were multiplied.
        """

    def random_directions(self, generator: torch.Generator) -> Tensor:
        """Unit rows [m, d] of this rank's latents."""
        directions_md = torch.randn(self.shape.latents, self.shape.width, generator=generator)
        directions_md /= directions_md.norm(dim=1, keepdim=True)
        return self.own_latents(directions_md).contiguous().to(self.device)

    def own_latents(self, tensor_m: Tensor) -> Tensor:
        """This rank's share of a tensor over all latents."""
        return tensor_m.tensor_split(self.ranks.latent_shares)[self.ranks.latent_share]


def as_numpy(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32)


def gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("the parameter lost its gradient buffer")
    return parameter.grad
