"""The four tensors of an SAE on their way into the normal form: read with checked shapes, then folded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae.formats.stored import Stored

Floats = npt.NDArray[np.float32]


@dataclass
class Weights:
    """Float32 tensors in the normal form's orientation: encoder and decoder [m, d], biases [m] and [d]."""

    w_enc_md: Floats
    b_enc_m: Floats
    w_dec_md: Floats
    b_dec_d: Floats

    def subtract_b_dec(self) -> None:
        """For an SAE that encodes ``x - b_dec``."""
        self.b_enc_m = self.b_enc_m - self.w_enc_md @ self.b_dec_d

    def scale_input(self, factor: float) -> None:
        """For an SAE that encodes ``factor x``."""
        self.w_enc_md = self.w_enc_md * np.float32(factor)

    def scale_output(self, factor: float) -> None:
        """For an SAE whose output is to be multiplied by `factor`."""
        self.w_dec_md = self.w_dec_md * np.float32(factor)
        self.b_dec_d = self.b_dec_d * np.float32(factor)

    def measure_in_decoder_norms(self) -> Floats:
        """For an SAE that ranks ``pre |W_dec|``: its latents get that unit, its decoder rows norm 1 (or 0).

        Returns:
            the norms [m] as they were.
        """
        norm_m: Floats = np.linalg.norm(self.w_dec_md, axis=1)
        self.w_enc_md = self.w_enc_md * norm_m[:, None]
        self.b_enc_m = self.b_enc_m * norm_m
        self.w_dec_md = self.w_dec_md / np.where(norm_m > 0, norm_m, np.float32(1))[:, None]
        return norm_m

    def undo_decoder_norms(self, threshold_m: Floats) -> Floats:
        """The threshold [m] on ``pre`` that does what `threshold_m` does on ``pre |W_dec|``."""
        norm_m = np.linalg.norm(self.w_dec_md, axis=1)
        never = np.finfo(np.float32).max
        undone_m: Floats = np.where(norm_m > 0, threshold_m / np.where(norm_m > 0, norm_m, np.float32(1)), never)
        return undone_m


class TensorReader:
    """Takes tensors out of a file and checks each against the widths that the others have.

    Args:
        stored: the file.
        latents: a tensor of shape [m], from which m is known.
        width: a tensor of shape [d], from which d is known; None where there is none, then `d` is needed.
        d: the width if the configuration or the path states it.
        m: the number of latents if they state it.
    """

    def __init__(
        self, stored: Stored, *, latents: str, width: str | None, d: int | None = None, m: int | None = None
    ) -> None:
        self._stored = stored
        self._taken: set[str] = set()
        self.m = self._length(latents, m, "latents")
        self.d = self._length(width, d, "width") if width is not None else int(d or 0)

    def matrix(self, name: str, axes: str) -> Floats:
        """A matrix as [m, d]; `axes` says how it is stored: ``md`` or ``dm``."""
        shape = (self.m, self.d) if axes == "md" else (self.d, self.m)
        array = self._array(name)
        if array.shape != shape:
            transposed = " (it is transposed)" if array.shape == shape[::-1] else ""
            raise FeaturewatchError(
                f"SAE tensor {name} of shape {list(array.shape)} in {self._stored.weights}{transposed}",
                f"with {self.m} latents of width {self.d} it must have shape {list(shape)}",
                "export the SAE again: tensors or configuration are of different SAEs, or the matrix is transposed",
            )
        return self._floats(name, array if axes == "md" else array.T)

    def vector(self, name: str, axis: str) -> Floats:
        """A vector [m] or [d]."""
        array, length = self._array(name), self.m if axis == "m" else self.d
        if array.shape != (length,):
            raise FeaturewatchError(
                f"SAE tensor {name} of shape {list(array.shape)} in {self._stored.weights}",
                f"with {self.m} latents of width {self.d} it must have shape [{length}]",
                "export the SAE again: its tensors are of different SAEs",
            )
        return self._floats(name, array)

    def scalar(self, name: str) -> float:
        array = self._array(name)
        if array.size != 1:
            raise FeaturewatchError(
                f"SAE tensor {name} of shape {list(array.shape)} in {self._stored.weights}",
                "it must be one number",
                "export the SAE again",
            )
        return float(self._floats(name, array).reshape(-1)[0])

    def finish(self, ignored: Iterable[str] = ()) -> None:
        """Raises FeaturewatchError when the file has tensors that nobody took."""
        left = sorted(set(self._stored.tensors) - self._taken - set(ignored))
        if left:
            raise FeaturewatchError(
                f"SAE weights {self._stored.weights} with further tensors {', '.join(left)}",
                "what they do to the codes is not known for this family, so they cannot be left out",
                "check that the configuration beside the file belongs to it",
            )

    def _length(self, name: str, stated: int | None, what: str) -> int:
        array = self._array(name)
        if array.ndim != 1:
            raise FeaturewatchError(
                f"SAE tensor {name} of shape {list(array.shape)} in {self._stored.weights}",
                "it must be a vector",
                "export the SAE again",
            )
        if stated is not None and array.size != stated:
            raise FeaturewatchError(
                f"SAE tensor {name} of shape {list(array.shape)} in {self._stored.weights}",
                f"configuration or path say that the SAE has {what} {stated}",
                "export the SAE again: configuration and weights are of different SAEs",
            )
        return int(array.size)

    def _array(self, name: str) -> npt.NDArray[np.generic]:
        if name not in self._stored.tensors:
            raise FeaturewatchError(
                f"SAE weights {self._stored.weights} with tensors {', '.join(sorted(self._stored.tensors)) or 'none'}",
                f"this kind of SAE needs a tensor {name}",
                "check the configuration beside it or export the SAE again",
            )
        self._taken.add(name)
        return self._stored.tensors[name]

    def _floats(self, name: str, array: npt.NDArray[np.generic]) -> Floats:
        with np.errstate(over="ignore"):
            floats = np.array(array, dtype=np.float32, order="C")
        if not np.isfinite(floats).all():
            raise FeaturewatchError(
                f"SAE tensor {name} with {int((~np.isfinite(floats)).sum())} NaN or infinite values in "
                f"{self._stored.weights}",
                "every weight must be finite",
                "retrain or download the SAE again",
            )
        return floats
