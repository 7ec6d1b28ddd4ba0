"""What TopK, BatchTopK and Matryoshka SAEs share: everything but the rule that selects the active latents.

``pre = W_enc (x - b_dec) + b_enc``; f keeps some of the largest positive values; ``x_hat = f W_dec + b_dec``. The loss
is the fraction of variance unexplained, averaged over nested prefixes of the latents (one prefix unless Matryoshka),
plus the auxiliary loss for dead latents. After the encoder's product everything is sparse.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint
from monitor.sae.activation import JumpRelu, TopK
from training.architectures.architecture import Architecture, StepContext, StepResult, as_numpy, gradient
from training.architectures.auxiliary import auxiliary_loss
from training.harvest.compute import forward_dtype
from training.kernels import sparse_cpu, sparse_torch
from training.kernels.buffers import Buffers
from training.kernels.codes import SparseCodes
from training.kernels.unit_rows import normalise_rows_, remove_parallel_
from training.options import option, require_all

ENCODER_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class TopKFamilySettings:
    """Settings that the family shares."""

    k: int = option(32, "Active latents per token; on average over a batch, unless the architecture is topk.")
    aux_weight: float = option(1 / 32, "Weight of the auxiliary loss that revives dead latents.")
    aux_share: float = option(
        1 / 64,
        "Bound of its cost: the share of rows times latents that it may look at. With more dead latents it takes fewer "
        "rows of the batch.",
    )
    encoder_dtype: str = option(
        "float32", "Dtype of the encoder's product in training; bfloat16 needs hardware that multiplies it natively."
    )

    def __post_init__(self) -> None:
        require_all(
            [
                (self.k >= 1, f"k {self.k}", "it must be at least 1", "give for example 32"),
                (
                    self.aux_weight >= 0,
                    f"aux-weight {self.aux_weight}",
                    "it must not be negative",
                    "give for example 0.03125",
                ),
                (0 < self.aux_share <= 1, f"aux-share {self.aux_share}", "it is a share", "give for example 0.015625"),
                (
                    self.encoder_dtype in ENCODER_DTYPES,
                    f"encoder-dtype {self.encoder_dtype!r}",
                    f"it is {' or '.join(ENCODER_DTYPES)}",
                    "choose one of them",
                ),
            ]
        )


FamilySettings = TypeVar("FamilySettings", bound=TopKFamilySettings)


class TopKFamily(Architecture[FamilySettings]):
    """The encoder starts as a copy of the decoder, whose rows are kept at norm 1; `b_dec` starts in the data's
    middle."""

    bounds: list[int]
    """Where the groups of this rank's latents end; prefix g holds the groups up to g."""

    def initialise(self, sample_nd: Tensor, generator: torch.Generator) -> None:
        _require_native(self.settings.encoder_dtype, self.device)
        self.w_dec_md = self.random_directions(generator)
        self.w_enc_md = self.w_dec_md.clone()
        self.b_enc_m = torch.zeros_like(self.w_dec_md[:, 0])
        self.b_dec_d = self.middle(sample_nd)
        self.bounds = [len(self.w_dec_md)]
        self._sparse: Any = sparse_cpu if self.device.type == "cpu" else sparse_torch
        self._memory = Buffers()

    def middle(self, sample_nd: Tensor) -> Tensor:
        """Where `b_dec` starts."""
        return sample_nd.mean(0)

    def parameters(self) -> dict[str, Tensor]:
        return {"w_enc": self.w_enc_md, "b_enc": self.b_enc_m, "w_dec": self.w_dec_md, "b_dec": self.b_dec_d}

    @abstractmethod
    def select(self, pre_nm: Tensor) -> SparseCodes:
        """The active latents of this rank's rows."""

    def pre_activations(self, centred_nd: Tensor) -> Tensor:
        """[n, m], in a buffer that the next call overwrites."""
        pre_nm = self._memory.get("pre", len(centred_nd), len(self.w_enc_md), like=centred_nd)
        if self.settings.encoder_dtype == "float32":
            return torch.addmm(self.b_enc_m, centred_nd, self.w_enc_md.T, out=pre_nm)
        low_nm = self._memory.get("low", *pre_nm.shape, like=centred_nd, dtype=torch.bfloat16)
        torch.mm(centred_nd.bfloat16(), self.w_enc_md.bfloat16().T, out=low_nm)
        return torch.add(low_nm, self.b_enc_m, out=pre_nm)

    @torch.no_grad()
    def step(self, x_nd: Tensor, context: StepContext) -> StepResult:
        d_enc_md, d_benc_m, d_dec_md, d_bdec_d = (gradient(parameter) for parameter in self.parameters().values())
        ranks, sparse, (n, d), groups = self.ranks, self._sparse, x_nd.shape, len(self.bounds)
        rows = n * ranks.row_shares
        x_nd = x_nd.contiguous()
        centred_nd = self._memory.get("centred", n, d, like=x_nd)
        grad_gnd = self._memory.get("grad", groups, n, d, like=x_nd)
        moments = ranks.sum_rows_(sparse.centre(x_nd, self.b_dec_d, centred_nd))
        variance = (moments[-1] - moments[:-1].square().sum() / rows).clamp(min=1e-12)
        scale = (2.0 / (groups * variance)).to(x_nd.dtype)

        codes = self.select(self.pre_activations(centred_nd))
        back = sparse.reconstruct(codes, self.w_dec_md, centred_nd, scale, self.bounds, grad_gnd, ranks)
        d_bias_m, fired_m = sparse.weight_gradients(
            codes, back.slopes_a, grad_gnd, self.bounds, centred_nd, d_enc_md, d_dec_md
        )
        d_benc_m.copy_(d_bias_m)
        # The last prefix's gradient is its error, scaled.
        aux = self._auxiliary(context.dead_j, centred_nd, grad_gnd[-1], scale)
        through_encoder_d = ranks.sum_latents_(torch.mv(self.w_enc_md.T, d_benc_m))
        torch.sub(back.sums_d, through_encoder_d, out=d_bdec_d)
        for summed in (d_enc_md, d_benc_m, d_dec_md, d_bdec_d, fired_m, back.squares_g):
            ranks.sum_rows_(summed)
        active = ranks.sum_latents_(fired_m.sum()).double()
        fvu_g = back.squares_g / variance
        loss, fvu, active_rows = torch.stack([fvu_g.mean(), fvu_g[-1], active]).tolist()
        aux_loss = float(aux)
        return StepResult(
            losses={"loss": loss + self.settings.aux_weight * aux_loss, "fvu": fvu, "aux": aux_loss},
            l0=active_rows / rows,
            fired_m=fired_m,
        )

    def _auxiliary(self, dead_j: Tensor | None, centred_nd: Tensor, grad_nd: Tensor, scale: Tensor) -> Tensor:
        d_enc_md, d_benc_m, d_dec_md, _ = (gradient(parameter) for parameter in self.parameters().values())
        return auxiliary_loss(
            self.settings.aux_weight,
            self.settings.aux_share,
            dead_j,
            self.shape.latents,
            centred_nd,
            grad_nd,
            -1.0 / scale,
            (self.w_enc_md, self.b_enc_m, self.w_dec_md),
            (d_enc_md, d_benc_m, d_dec_md),
            self.ranks,
        )

    @torch.no_grad()
    def before_update(self) -> None:
        """Takes out the part of the decoder's gradient that would only change the length of its rows."""
        remove_parallel_(gradient(self.w_dec_md), self.w_dec_md)

    @torch.no_grad()
    def after_update(self) -> None:
        normalise_rows_(self.w_dec_md)

    def folded(
        self,
        activation: JumpRelu | TopK,
        scale: float,
        hook_point: HookPoint,
        model: str,
        metadata: dict[str, Any],
    ) -> Dictionary:
        """The normal form with this activation; scale and decoder bias are folded."""
        return Dictionary(
            w_enc_md=as_numpy(self.w_enc_md),
            b_enc_m=as_numpy((self.b_enc_m - self.w_enc_md @ self.b_dec_d) / scale),
            w_dec_md=as_numpy(self.w_dec_md),
            b_dec_d=as_numpy(self.b_dec_d / scale),
            activation=activation,
            hook_point=hook_point,
            model=model,
            metadata={"training_architecture": self.name, "k": self.settings.k, **metadata},
        )


def _require_native(dtype: str, device: torch.device) -> None:
    if dtype != "float32" and forward_dtype("auto", device) != torch.bfloat16:
        raise FeaturewatchError(
            f"encoder-dtype {dtype} on this {device.type}",
            "it is emulated here, many times slower than float32",
            "leave it at float32, or train on a GPU or a CPU with AVX512-BF16 or AMX",
        )
