"""BatchTopK (arXiv 2412.06410): the k·n largest positive pre-activations of a batch of n rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from monitor.sae import Dictionary, HookPoint, JumpRelu
from training.architectures.top_k_family import TopKFamily, TopKFamilySettings
from training.kernels.codes import SparseCodes

_MEMORY: Final = 0.98
"""Share of the running threshold that a step keeps: it looks back about 50 steps."""


@dataclass(frozen=True)
class BatchTopKSettings(TopKFamilySettings):
    """Settings of a BatchTopK SAE."""


BatchSettings = TypeVar("BatchSettings", bound=TopKFamilySettings)


class BatchSelection(TopKFamily[BatchSettings]):
    """One cut for the whole batch, which becomes the one threshold of a JumpReLU at inference."""

    needs_threshold: ClassVar[bool] = True

    def initialise(self, sample_nd: Tensor, generator: torch.Generator) -> None:
        super().initialise(sample_nd, generator)
        self._cut = torch.zeros((), device=self.device)
        self._running = torch.zeros(2, dtype=torch.float64, device=self.device)

    def buffers(self) -> dict[str, Tensor]:
        """``cut``: of the last batch; ``running``: decaying sums of the cuts and of their weights."""
        return {"cut": self._cut, "running": self._running}

    @property
    def threshold(self) -> float:
        """Decaying mean of the batches' smallest kept values; 0 before the first step.

        Divided by the weights it has gathered, so that few steps give no bias towards 0.
        """
        total, weight = self._running.tolist()
        return float(total / weight) if weight else 0.0

    def select(self, pre_nm: Tensor) -> SparseCodes:
        count = self.settings.k * len(pre_nm) * self.ranks.row_shares
        hint = float(self._cut) if self.device.type == "cpu" else 0.0
        codes: SparseCodes = self._sparse.batch_top_k(pre_nm, count, self.ranks, hint)
        if codes.cut is None:
            raise RuntimeError("a batch-wide selection has one cut")
        self._cut.copy_(codes.cut)
        self._running.mul_(_MEMORY).add_(
            (1 - _MEMORY) * torch.stack([self._cut.double(), torch.ones_like(self._running[0])])
        )
        return codes

    def export(self, scale: float, hook_point: HookPoint, model: str, metadata: dict[str, Any]) -> Dictionary:
        """The threshold is the running one, until one is fitted on held-out rows."""
        threshold_m = np.full(len(self.w_enc_md), self.threshold / scale, np.float32)
        return self.folded(JumpRelu(threshold_m), scale, hook_point, model, metadata)


class BatchTopK(BatchSelection[BatchTopKSettings]):
    """The encoder starts as a copy of the decoder, whose rows are kept at norm 1; `b_dec` starts as the mean."""

    name: ClassVar[str] = "batchtopk"
    title: ClassVar[str] = "BatchTopK (arXiv 2412.06410) with an auxiliary loss for dead latents (arXiv 2406.04093)"
