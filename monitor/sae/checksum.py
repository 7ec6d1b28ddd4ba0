"""One number that tells whether an SAE that was loaded here encodes as it does elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from monitor.sae.activation import JumpRelu, activate_
from monitor.sae.dictionary import Dictionary
from monitor.sae.input_norm import normalise

ROWS: Final = 8
SEED: Final = 1
_CHUNK_LATENTS: Final = 4096
_FIRING: Final = 0.01


@dataclass(frozen=True)
class Checksum:
    """What the SAE makes of `ROWS` rows of seeded Gaussian noise with norm about sqrt(d), computed in float64.

    Where no latent fires on them, because thresholds or biases are made for longer rows, the noise (normalised, where
    the SAE normalises its input) is multiplied by the lowest power of two at which a hundredth of all latents fire.

    Attributes:
        value: sum of all latents, each times ``1 + (index mod 97)``; 0 if none can fire on a multiple of the noise.
        l0: active latents per row.
        times: that the noise was multiplied with.
    """

    value: float
    l0: float
    times: float = 1.0

    def __str__(self) -> str:
        louder = f" on {self.times:g} times the noise" if self.times != 1 else ""
        return f"{self.value:.6e} (L0 {self.l0:g}{louder})"


def encode_checksum(dictionary: Dictionary) -> Checksum:
    """The same on every machine to the digits that are printed; weights rounded to float16 change the later ones."""
    # Any: the rules are typed for the float32 of the normal form, and take float64 as well.
    x_nd: Any = np.random.Generator(np.random.PCG64(SEED)).standard_normal((ROWS, dictionary.width))
    if dictionary.input_norm != "none":
        x_nd = normalise(x_nd, dictionary.input_norm).rows_nd
    times, f_nm = 1.0, _latents(dictionary, x_nd)
    if not f_nm.any():
        times = _loud_enough(dictionary, x_nd)
        f_nm = _latents(dictionary, times * x_nd)
    weight_m = 1.0 + np.arange(dictionary.num_latents) % 97
    return Checksum(float((f_nm @ weight_m).sum()), np.count_nonzero(f_nm) / ROWS, times)


def _latents(dictionary: Dictionary, x_nd: Any) -> Any:
    f_nm = _products(dictionary, x_nd)
    f_nm += dictionary.b_enc_m
    activate_(f_nm, dictionary.activation)
    return f_nm


def _loud_enough(dictionary: Dictionary, x_nd: Any) -> float:
    """The power of two at which a hundredth of the latents that are silent on the rows [n, d] fire, else 1."""
    product_nm = _products(dictionary, x_nd)
    least_m = dictionary.activation.threshold_m if isinstance(dictionary.activation, JumpRelu) else np.float32(0)
    missing_nm = np.broadcast_to(least_m - dictionary.b_enc_m.astype(np.float64), product_nm.shape)
    rising = product_nm > 0
    times = np.sort(missing_nm[rising] / product_nm[rising])
    if not len(times):
        return 1.0
    wanted = times[min(int(_FIRING * product_nm.size), len(times) - 1)]
    return float(np.ldexp(1.0, np.frexp(wanted)[1]))


def _products(dictionary: Dictionary, x_nd: Any) -> Any:
    product_nm = np.empty((ROWS, dictionary.num_latents))
    for at in range(0, dictionary.num_latents, _CHUNK_LATENTS):
        part = slice(at, at + _CHUNK_LATENTS)
        product_nm[:, part] = x_nd @ dictionary.w_enc_md[part].T.astype(np.float64)
    return product_nm
