"""The normal form that every dictionary is brought into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae.activation import Activation, JumpRelu, Relu, check_activation
from monitor.sae.encode import SparseLatents, encode_dense, encode_sparse
from monitor.sae.hook_point import HookPoint
from monitor.sae.input_norm import INPUT_NORMS, InputNorm, normalise

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Dictionary:
    """A sparse autoencoder in normal form.

    ``pre = W_enc x + b_enc``, ``f = activation(pre)``, ``x_hat = f W_dec + b_dec``; with an input normalisation, x is
    the normalised row and x_hat is brought back to the row's own units.

    Everything foldable is folded: `b_enc` already holds ``-W_enc b_dec`` where the SAE subtracts its decoder bias.

    Attributes:
        w_enc_md: encoder rows, [m, d], contiguous per latent.
        b_enc_m: [m].
        w_dec_md: decoder rows, [m, d].
        b_dec_d: [d].
        activation: rule from pre-activation to latent.
        hook_point: where its input lives.
        model: the model it was trained on, as named in its configuration.
        sha256: of the weights file; empty for a dictionary that has not been stored.
        metadata: the configuration's remaining entries, as stored.
        input_norm: what is done to each row first; see `monitor.sae.input_norm`.
    """

    w_enc_md: Floats
    b_enc_m: Floats
    w_dec_md: Floats
    b_dec_d: Floats
    activation: Activation
    hook_point: HookPoint
    model: str
    sha256: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    input_norm: InputNorm = "none"

    def __post_init__(self) -> None:
        m, d = self.w_enc_md.shape
        expected: dict[str, tuple[Floats, tuple[int, ...]]] = {
            "b_enc": (self.b_enc_m, (m,)),
            "W_dec": (self.w_dec_md, (m, d)),
            "b_dec": (self.b_dec_d, (d,)),
        }
        if isinstance(self.activation, JumpRelu):
            expected["threshold"] = (self.activation.threshold_m, (m,))
        for name, (tensor, shape) in expected.items():
            if tensor.shape != shape:
                raise FeaturewatchError(
                    f"SAE tensor {name} of shape {list(tensor.shape)}",
                    f"W_enc has {m} latents of width {d}, so {name} must have shape {list(shape)}",
                    "store the SAE again with the program that trained it",
                )
        for name, tensor in [("W_enc", self.w_enc_md), *((name, tensor) for name, (tensor, _) in expected.items())]:
            if not np.isfinite(tensor).all():
                raise FeaturewatchError(
                    f"SAE tensor {name} with {int((~np.isfinite(tensor)).sum())} NaN or infinite values",
                    "every weight must be finite",
                    "retrain or download the SAE again",
                )
        check_activation(self.activation, m)
        if self.input_norm not in INPUT_NORMS:
            raise FeaturewatchError(
                f"SAE with input normalisation {self.input_norm!r}",
                f"it is one of {', '.join(INPUT_NORMS)}",
                "choose one",
            )

    @property
    def num_latents(self) -> int:
        return int(self.w_enc_md.shape[0])

    @property
    def width(self) -> int:
        return int(self.w_enc_md.shape[1])

    def require_width(self, width: int, model: str) -> None:
        """Raises FeaturewatchError unless the dictionary fits a residual stream of `width`."""
        if self.width != width:
            raise FeaturewatchError(
                f"SAE at {self.hook_point} of width {self.width}",
                f"the residual stream of {model} has width {width}",
                f"use an SAE that was trained on {model}",
            )

    @property
    def decides_by_latent(self) -> bool:
        """Whether each latent depends on its own pre-activation of the raw row alone, so that few can be watched."""
        return isinstance(self.activation, Relu | JumpRelu) and self.input_norm == "none"

    def encode(self, x_nd: Floats, out_nm: Floats | None = None) -> Floats:
        """Latents [n, m] of residual rows [n, d].

        Args:
            out_nm: contiguous float32 memory for the result, to be used again.
        """
        if self.input_norm != "none":
            x_nd = normalise(x_nd, self.input_norm).rows_nd
        return encode_dense(x_nd, self.w_enc_md, self.b_enc_m, self.activation, out_nm)

    def encode_sparse(self, x_nd: Floats) -> SparseLatents:
        """The active latents of residual rows [n, d], without [n, m] in memory."""
        if self.input_norm != "none":
            x_nd = normalise(x_nd, self.input_norm).rows_nd
        return encode_sparse(x_nd, self.w_enc_md, self.b_enc_m, self.activation)

    def decode(self, f_nm: Floats, x_nd: Floats | None = None) -> Floats:
        """Reconstruction [n, d] of latents [n, m].

        Args:
            x_nd: the rows that were encoded; only an SAE with input normalisation needs them.

        Raises:
            FeaturewatchError: it has one and they are not given.
        """
        x_hat_nd = f_nm @ self.w_dec_md
        x_hat_nd += self.b_dec_d
        if self.input_norm == "none":
            return x_hat_nd
        if x_nd is None:
            raise FeaturewatchError(
                f"SAE at {self.hook_point} with input normalisation {self.input_norm}",
                "its latents alone do not tell the scale of the row",
                "give the rows that were encoded too, or call reconstruct",
            )
        return normalise(x_nd, self.input_norm).undo(x_hat_nd)

    def reconstruct(self, x_nd: Floats) -> Floats:
        """``decode(encode(x))`` [n, d]."""
        return self.decode(self.encode(x_nd), x_nd)
