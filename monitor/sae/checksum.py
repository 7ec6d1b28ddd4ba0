"""One number that tells whether an SAE that was loaded here encodes as it does elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from monitor.sae.activation import activate_
from monitor.sae.dictionary import Dictionary
from monitor.sae.input_norm import normalise

ROWS: Final = 8
SEED: Final = 1
_CHUNK_LATENTS: Final = 4096


@dataclass(frozen=True)
class Checksum:
    """What the SAE makes of `ROWS` rows of seeded Gaussian noise with norm about sqrt(d), computed in float64.

    Attributes:
        value: sum of all latents, each times ``1 + (index mod 97)``.
        l0: active latents per row.
    """

    value: float
    l0: float

    def __str__(self) -> str:
        return f"{self.value:.6e} (L0 {self.l0:g})"


def encode_checksum(dictionary: Dictionary) -> Checksum:
    """The same on every machine to the digits that are printed; weights rounded to float16 change the later ones."""
    # Any: the rules are typed for the float32 of the normal form, and take float64 as well.
    x_nd: Any = np.random.Generator(np.random.PCG64(SEED)).standard_normal((ROWS, dictionary.width))
    if dictionary.input_norm != "none":
        x_nd = normalise(x_nd, dictionary.input_norm).rows_nd
    f_nm: Any = np.empty((ROWS, dictionary.num_latents))
    for at in range(0, dictionary.num_latents, _CHUNK_LATENTS):
        part = slice(at, at + _CHUNK_LATENTS)
        f_nm[:, part] = x_nd @ dictionary.w_enc_md[part].T.astype(np.float64) + dictionary.b_enc_m[part]
    activate_(f_nm, dictionary.activation)
    weight_m = 1.0 + np.arange(dictionary.num_latents) % 97
    return Checksum(float((f_nm @ weight_m).sum()), np.count_nonzero(f_nm) / ROWS)
