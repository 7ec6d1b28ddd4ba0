"""One dictionary measured on rows that come in batches; memory is that of a chunk, however many rows there are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from monitor.sae import Dictionary
from training.evaluation.latent_sums import Firing, LatentSums
from training.evaluation.reconstruction import Reconstruction, reconstruction_of
from training.evaluation.row_sums import RowSums
from training.harvest.tokens import Reason

Floats = npt.NDArray[np.float32]
_CHUNK_VALUES = 2**24  # latents of one chunk of rows, 64 MiB


class Measurement:
    """Sums of one dictionary over the rows added so far.

    Args:
        dictionary: any normal form.
        median_norm: of content rows, in whose multiples the norm bands are.
    """

    def __init__(self, dictionary: Dictionary, median_norm: float) -> None:
        self.dictionary = dictionary
        self.rows = RowSums(dictionary.width, median_norm)
        self.latents = LatentSums(dictionary.num_latents)

    def add(self, rows_nd: Floats, reasons_n: npt.NDArray[np.uint8], sequences_n: npt.NDArray[np.int64]) -> None:
        """Adds rows [n, d] with their `Reason`s and the numbers of their sequences."""
        for chunk in _chunks(self.dictionary, len(rows_nd)):
            codes_nm = self.dictionary.encode(rows_nd[chunk])
            reconstruction_nd = self.dictionary.decode(codes_nm, rows_nd[chunk])
            self.rows.add(rows_nd[chunk], reconstruction_nd, codes_nm, reasons_n[chunk], sequences_n[chunk])
            self.latents.add(codes_nm[reasons_n[chunk] == Reason.KEPT])


def reconstructed(dictionary: Dictionary, rows_nd: Floats) -> Floats:
    """Reconstruction [n, d] of rows, a chunk at a time."""
    out_nd = np.empty(rows_nd.shape, np.float32)
    for chunk in _chunks(dictionary, len(rows_nd)):
        out_nd[chunk] = dictionary.decode(dictionary.encode(rows_nd[chunk]), rows_nd[chunk])
    return out_nd


def _chunks(dictionary: Dictionary, rows: int) -> Iterator[slice]:
    step = max(1, _CHUNK_VALUES // dictionary.num_latents)
    return (slice(start, start + step) for start in range(0, rows, step))


def measure_rows(dictionary: Dictionary, rows_nd: Floats) -> tuple[Reconstruction, Firing]:
    """Figures on kept rows [n, d] of which no sequences are known: each row is taken for one."""
    median = float(np.median(np.linalg.norm(rows_nd, axis=1))) if len(rows_nd) else 0.0
    measurement = Measurement(dictionary, median)
    measurement.add(rows_nd, np.full(len(rows_nd), Reason.KEPT, np.uint8), np.arange(len(rows_nd)))
    return reconstruction_of(measurement.rows), measurement.latents.firing()
