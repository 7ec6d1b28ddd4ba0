"""TopK (Gao et al., arXiv 2406.04093): the k largest positive pre-activations of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from monitor.sae import Dictionary, HookPoint
from monitor.sae.activation import TopK as TopKActivation
from training.architectures.top_k_family import TopKFamily, TopKFamilySettings
from training.kernels.codes import SparseCodes
from training.options import option, require_all

_WEISZFELD_STEPS = 100
_TOLERANCE = 1e-5
MIDDLES = ("geometric-median", "mean")


@dataclass(frozen=True)
class TopKSettings(TopKFamilySettings):
    """Settings of a TopK SAE."""

    b_dec: str = option("geometric-median", "Where the decoder's bias starts: geometric-median or mean of the data.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_all(
            [(self.b_dec in MIDDLES, f"b-dec {self.b_dec!r}", f"it is {' or '.join(MIDDLES)}", "choose one of them")]
        )


class TopK(TopKFamily[TopKSettings]):
    """Exactly k latents per row, as far as they are positive; the export has the same rule."""

    name: ClassVar[str] = "topk"
    title: ClassVar[str] = "TopK with an auxiliary loss for dead latents (arXiv 2406.04093)"

    def middle(self, sample_nd: Tensor) -> Tensor:
        return geometric_median(sample_nd) if self.settings.b_dec == "geometric-median" else sample_nd.mean(0)

    def select(self, pre_nm: Tensor) -> SparseCodes:
        codes: SparseCodes = self._sparse.row_top_k(pre_nm, self.settings.k, self.ranks)
        return codes

    def export(self, scale: float, hook_point: HookPoint, model: str, metadata: dict[str, Any]) -> Dictionary:
        return self.folded(TopKActivation(self.settings.k), scale, hook_point, model, metadata)


def geometric_median(x_nd: Tensor) -> Tensor:
    """The point [d] with the least sum of distances to the rows, by Weiszfeld's iteration in float64."""
    rows_nd = x_nd.double()
    median_d = rows_nd.mean(0)
    for _ in range(_WEISZFELD_STEPS):
        weights_n = 1 / torch.linalg.vector_norm(rows_nd - median_d, dim=1).clamp(min=1e-12)
        moved_d = (weights_n @ rows_nd) / weights_n.sum()
        done = torch.linalg.vector_norm(moved_d - median_d) <= _TOLERANCE * torch.linalg.vector_norm(moved_d)
        median_d = moved_d
        if done:
            break
    return median_d.to(x_nd.dtype)
