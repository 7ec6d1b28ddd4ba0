"""The step that SAEs share whose latents each look at their own pre-activation only: ReLU, JumpReLU and Gated.

``pre = W_enc x + b``, ``f = rule(pre)`` entry by entry, ``x_hat = f W_dec + b_dec``. What an architecture adds is its
`Rule`: the activation, its derivatives and the penalty. The step goes over the batch in groups of rows that fit the
processor's cache. If few entries are above the rule's floor, only these are kept and everything after the encoder's
product costs as much as they are many; else it is dense products in memory that every step uses again. Both give the
same gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from training.architectures.architecture import Architecture, StepContext, StepResult, gradient
from training.kernels import active_cpu
from training.kernels.buffers import Buffers

_LEAST_VARIANCE = 1e-12
Settings = TypeVar("Settings")
Spread = Callable[[Tensor], Tensor]
"""From one value per latent [m] to one per entry: of the listed entries [a], or to be broadcast over rows."""


@dataclass(frozen=True)
class DenseGradients:
    """What a group of rows adds.

    Attributes:
        d_pre_nm: gradient by the pre-activations.
        bias_m: its sum over the rows.
        count_m: rows in which each latent was active, as float32.
        sums: [m] each, what `Rule.backward` asks for.
    """

    d_pre_nm: Tensor
    bias_m: Tensor
    count_m: Tensor
    sums: tuple[Tensor, ...]


@dataclass(frozen=True)
class Rule(ABC):
    """One step's activation and penalty, entry by entry, on entries [a] or all of some rows [n, m].

    Attributes:
        floor_m: entries at or below it play no part in the step.
        error_weights: of each reconstruction's squared error, summed over rows and width; one per element that
            `forward` returns.
    """

    floor_m: Tensor
    error_weights: tuple[float, ...]

    @abstractmethod
    def forward(self, pre: Tensor, of: Spread) -> tuple[Tensor, ...]:
        """The latents, and further codes that reconstruct through the same decoder, which they do not train."""

    @abstractmethod
    def backward(
        self, pre: Tensor, codes: tuple[Tensor, ...], slopes: tuple[Tensor, ...], of: Spread
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss's gradient by the pre-activations, and what `finish` needs the sums over rows of.

        Args:
            pre: what `forward` got; it may have changed this in place.
            codes: what `forward` returned.
            slopes: gradient of the squared errors by each of them; may be changed in place.
            of: per-latent values.
        """

    def forward_rows(self, product_nm: Tensor, bias_m: Tensor) -> tuple[Tensor, ...]:
        """`forward` of whole rows, from the encoder's product without bias, which may be changed in place."""
        return self.forward(product_nm.add_(bias_m), _itself)

    def backward_rows(self, pre_nm: Tensor, codes: tuple[Tensor, ...], slopes: tuple[Tensor, ...]) -> DenseGradients:
        """`backward` of the rows that `forward_rows` was called for last."""
        d_pre_nm, sums = self.backward(pre_nm, codes, slopes, _itself)
        return DenseGradients(d_pre_nm, d_pre_nm.sum(0), codes[0].sign().sum(0), tuple(value.sum(0) for value in sums))


def _itself(value_m: Tensor) -> Tensor:
    return value_m


@dataclass(frozen=True)
class Totals:
    """Sums of one step; over this rank's rows unless said otherwise.

    Attributes:
        rows: over all ranks.
        own_rows: of this rank.
        l0: active latents per row, over all ranks.
        count_m: rows in which each latent was active, as float32.
        bias_m: gradient by the pre-activations' bias.
        sums: [m] each, what `Rule.backward` asked for.
        input_nd: the encoder's input.
    """

    rows: int
    own_rows: int
    l0: float
    count_m: Tensor
    bias_m: Tensor
    sums: tuple[Tensor, ...]
    input_nd: Tensor


class Elementwise(Architecture[Settings]):
    """Parameters `w_enc_md`, `w_dec_md` and `b_dec_d`; the architectures add theirs."""

    centred: ClassVar[bool] = True
    """The encoder's input is ``x - b_dec``, not x."""
    sparse_below: ClassVar[float] = 0.12
    """Share of entries above the floor up to which the sparse way is faster (d = 576, m = 4,608, 2 cores)."""
    group_rows: ClassVar[int] = 512
    w_enc_md: Tensor
    w_dec_md: Tensor
    b_dec_d: Tensor

    @abstractmethod
    def bias_m(self) -> Tensor:
        """What is added to the encoder's product."""

    @abstractmethod
    def rule(self, context: StepContext, rows: int, variance: float) -> Rule:
        """Of one step.

        Args:
            context: of the step.
            rows: of the batch, over all ranks.
            variance: of the batch, summed over rows and width.
        """

    @abstractmethod
    def finish(self, rule: Rule, totals: Totals, context: StepContext) -> Mapping[str, tuple[float, Tensor]]:
        """Completes the gradients of this rank's rows: `w_enc` and `w_dec` hold what comes from the entries, `bias_m`
        of the totals may be changed in place, `b_dec` is done afterwards.

        Returns:
            Further losses: weight and this rank's share, both summed up over all ranks.
        """

    def copied_encoder(self) -> Tensor:
        """An encoder for rectified values, in the decoder's directions.

        Half of m random latents of norm 1 are active at the start and together give back m/2d times the input; the
        encoder is shorter by that factor, so that the first reconstructions have the input's length.
        """
        return self.w_dec_md * min(1.0, 2 * self.shape.width / self.shape.latents)

    def initialise_buffers(self) -> None:
        """To be called by `initialise`."""
        self._buffers = Buffers()

    @torch.no_grad()
    def encode(self, x_nd: Tensor) -> Tensor:
        """Latents [n, m] of scaled rows, as the training computes them."""
        pre_nm = (x_nd - self.b_dec_d if self.centred else x_nd) @ self.w_enc_md.T + self.bias_m()
        return self.rule(StepContext(0, 1), len(x_nd), 1.0).forward(pre_nm, _itself)[0]

    @torch.no_grad()
    def step(self, x_nd: Tensor, context: StepContext) -> StepResult:
        n, rows = len(x_nd), len(x_nd) * self.ranks.row_shares
        target_nd = torch.sub(x_nd, self.b_dec_d, out=self._buffer("target", n, x_nd.shape[1]))
        input_nd = target_nd if self.centred else x_nd
        # b_dec is near the mean, so that little cancels out here.
        moments = torch.cat([_square_sum(target_nd)[None], target_nd.sum(0)]).double()
        self.ranks.sum_rows_(moments)
        variance = max(float(moments[0] - moments[1:].square().sum() / rows), _LEAST_VARIANCE)
        rule = self.rule(context, rows, variance)
        errors, bias_m, count_m, sums = self._entries(input_nd, target_nd, rule)
        fired_m = self.ranks.sum_rows_(count_m.round().long())
        active = self.ranks.sum_latents_(fired_m.sum())
        totals = Totals(rows, n, int(active) / rows, count_m, bias_m, sums, input_nd)
        parts = self.finish(rule, totals, context)
        d_bdec_d = gradient(self.b_dec_d)
        torch.sum(self._buffer("grad0", n, x_nd.shape[1]), 0, out=d_bdec_d)
        if self.centred:
            d_bdec_d.sub_(self.ranks.sum_latents_(self.w_enc_md.T @ bias_m))
        for parameter in self.parameters().values():
            self.ranks.sum_rows_(gradient(parameter))
        losses = self._losses(rule, errors, parts, variance)
        return StepResult(losses=losses, l0=totals.l0, fired_m=fired_m)

    def _losses(
        self, rule: Rule, errors_k: Tensor, parts: Mapping[str, tuple[float, Tensor]], variance: float
    ) -> dict[str, float]:
        errors = self.ranks.sum_rows_(errors_k.double()).tolist()
        values: list[float] = []
        if parts:
            shares = torch.stack([value.double() for _, value in parts.values()])
            values = self.ranks.sum_latents_(self.ranks.sum_rows_(shares)).tolist()
        losses = {"loss": 0.0, "fvu": errors[0] / variance}
        losses["loss"] = sum(weight * error for weight, error in zip(rule.error_weights, errors, strict=True))
        for (name, (weight, _)), value in zip(parts.items(), values, strict=True):
            losses[name] = value
            losses["loss"] += weight * value
        if len(errors) > 1:
            losses["aux"] = rule.error_weights[1] * errors[1]
        return losses

    def _entries(
        self, input_nd: Tensor, target_nd: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Writes the gradients of both matrices and leaves the reconstructions' in the buffers ``grad0``, ``grad1``.

        Returns:
            Squared errors, gradient by the bias, active rows per latent, the rule's sums.
        """
        bias_m = self.bias_m()
        floor_m = rule.floor_m - bias_m
        group = self.group_rows if self.device.type == "cpu" else len(input_nd)
        counts: list[Tensor] = []
        listed: list[tuple[Tensor, Tensor]] = []
        dense: _DenseSums | None = None
        for low in range(0, len(input_nd), group):
            rows_nd = input_nd[low : low + group]
            pre_nm = torch.mm(rows_nd, self.w_enc_md.T, out=self._buffer("pre", len(rows_nd), len(floor_m)))
            if not low and self.ranks.any_rank(self._is_dense(pre_nm, floor_m)):
                dense = _DenseSums(bias_m)
            if dense is not None:
                self._dense_group(low, rows_nd, target_nd, pre_nm, rule, dense)
            else:
                counts.append(active_cpu.count_above(pre_nm, floor_m))
                listed.append(active_cpu.gather_above(pre_nm, floor_m, counts[-1]))
        if dense is not None:
            return dense.errors_k, dense.bias_m, dense.count_m, dense.sums
        starts_n1 = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)])
        latents_a, values_a = (torch.cat(parts) for parts in zip(*listed, strict=True))
        return self._listed(input_nd, target_nd, starts_n1, latents_a, values_a.add_(bias_m[latents_a]), rule)

    def _is_dense(self, pre_nm: Tensor, floor_m: Tensor) -> bool:
        if self.device.type != "cpu":
            return True
        return int(active_cpu.count_above(pre_nm, floor_m).sum()) > self.sparse_below * pre_nm.numel()

    def _listed(  # noqa: PLR0917
        self, input_nd: Tensor, target_nd: Tensor, starts_n1: Tensor, latents_a: Tensor, pre_a: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        m = len(self.w_dec_md)
        index_a = latents_a.long()

        def of(value_m: Tensor) -> Tensor:
            return value_m[index_a]

        def by_latent(value_a: Tensor) -> Tensor:
            return torch.bincount(index_a, value_a, minlength=m).to(value_a.dtype)

        codes = rule.forward(pre_a, of)
        errors, slopes = [], []
        for k, (code_a, weight) in enumerate(zip(codes, rule.error_weights, strict=True)):
            grad_nd = self._buffer(f"grad{k}", *input_nd.shape)
            active_cpu.decode(starts_n1, latents_a, code_a, self.w_dec_md, grad_nd)
            self.ranks.sum_latents_(grad_nd).sub_(target_nd)
            errors.append(_square_sum(grad_nd))
            slopes.append(active_cpu.dots(starts_n1, latents_a, grad_nd.mul_(2 * weight), self.w_dec_md))
        d_pre_a, sums = rule.backward(pre_a, codes, tuple(slopes), of)
        active_cpu.weight_gradients(
            starts_n1,
            latents_a,
            codes[0],
            d_pre_a,
            self._buffer("grad0", *input_nd.shape),
            input_nd,
            gradient(self.w_enc_md),
            gradient(self.w_dec_md),
        )
        count_m = by_latent(codes[0].sign())
        return torch.stack(errors), by_latent(d_pre_a), count_m, tuple(by_latent(value) for value in sums)

    def _dense_group(  # noqa: PLR0917
        self, low: int, rows_nd: Tensor, target_nd: Tensor, pre_nm: Tensor, rule: Rule, dense: _DenseSums
    ) -> None:
        codes = rule.forward_rows(pre_nm, dense.encoder_bias_m)
        slopes = []
        group = slice(low, low + len(rows_nd))
        for k, (code_nm, weight) in enumerate(zip(codes, rule.error_weights, strict=True)):
            grad_nd = self._buffer(f"grad{k}", *target_nd.shape)[group]
            torch.mm(code_nm, self.w_dec_md, out=grad_nd)
            self.ranks.sum_latents_(grad_nd).sub_(target_nd[group])
            dense.add_error(k, _square_sum(grad_nd))
            slope_nm = self._buffer(f"slope{k}", *pre_nm.shape)
            slopes.append(torch.mm(grad_nd.mul_(2 * weight), self.w_dec_md.T, out=slope_nm))
        found = rule.backward_rows(pre_nm, codes, tuple(slopes))
        kept = float(low > 0)
        grad_nd = self._buffer("grad0", *target_nd.shape)[group]
        gradient(self.w_dec_md).addmm_(codes[0].T, grad_nd, beta=kept)
        gradient(self.w_enc_md).addmm_(found.d_pre_nm.T, rows_nd, beta=kept)
        dense.add(found)

    def _buffer(self, name: str, *shape: int) -> Tensor:
        return self._buffers.get(name, *shape, like=self.w_dec_md)


class _DenseSums:
    """What adds up over the groups of rows."""

    def __init__(self, encoder_bias_m: Tensor) -> None:
        self.encoder_bias_m = encoder_bias_m
        self.errors_k = encoder_bias_m.new_zeros(0)
        self.bias_m = torch.zeros_like(encoder_bias_m)
        self.count_m = torch.zeros_like(encoder_bias_m)
        self.sums: tuple[Tensor, ...] = ()

    def add_error(self, k: int, error: Tensor) -> None:
        if k == len(self.errors_k):
            self.errors_k = torch.cat([self.errors_k, error.new_zeros(1)])
        self.errors_k[k] += error

    def add(self, found: DenseGradients) -> None:
        self.bias_m += found.bias_m
        self.count_m += found.count_m
        added = found.sums
        self.sums = tuple(a + b for a, b in zip(self.sums, added, strict=True)) if self.sums else added


def _square_sum(tensor_nd: Tensor) -> Tensor:
    flat = tensor_nd.reshape(-1)
    return torch.dot(flat, flat)
