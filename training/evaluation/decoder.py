"""Figures that follow from a dictionary's weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.sae import Dictionary
from training.evaluation.latent_sums import QUANTILES

Floats = npt.NDArray[np.float32]

DUPLICATE: Final = 0.9
"""Decoder rows with a cosine above this point nearly the same way."""
_QUERIES = 16_384
_CHUNK_VALUES = 2**25
_BINS = 40
_TOP = 10


@dataclass(frozen=True)
class DecoderFigures:
    """Cosines within the weights.

    Attributes:
        queries: latents whose nearest neighbour was looked up: all, or a seeded sample of a very wide dictionary.
        zero_rows: decoder rows of norm 0, which are left out.
        nearest_quantiles: cosine of a decoder row with its nearest other one, by quantile.
        nearest_histogram: the same as a histogram: edges [b + 1] and latents [b].
        duplicate_share: latents with a neighbour above 0.9.
        closest: pairs of latents with the highest cosine: both indices and the cosine.
        encoder_quantiles, encoder_histogram: cosine of a latent's encoder and decoder row.
        decoder_norm_quantiles: norms of the decoder rows.
    """

    queries: int
    zero_rows: int
    nearest_quantiles: dict[str, float]
    nearest_histogram: dict[str, list[float]]
    duplicate_share: float
    closest: list[tuple[int, int, float]]
    encoder_quantiles: dict[str, float]
    encoder_histogram: dict[str, list[float]]
    decoder_norm_quantiles: dict[str, float]


def decoder_figures(dictionary: Dictionary, queries: int = _QUERIES) -> DecoderFigures:
    """Cosines of decoder rows with one another and with their encoder rows."""
    norms_m = np.linalg.norm(dictionary.w_dec_md, axis=1)
    there = np.flatnonzero(norms_m > 0)
    unit_md = dictionary.w_dec_md[there] / norms_m[there, None]
    asked = np.arange(len(there))
    if len(there) > queries:
        asked = np.sort(np.random.default_rng(0).choice(len(there), queries, replace=False))
    nearest_q, neighbour_q = _nearest(unit_md, asked)
    encoder_m = np.linalg.norm(dictionary.w_enc_md[there], axis=1)
    encoder_cosine_m = np.einsum("md,md->m", dictionary.w_enc_md[there], unit_md) / np.where(
        encoder_m > 0, encoder_m, 1
    )
    return DecoderFigures(
        queries=len(asked),
        zero_rows=len(norms_m) - len(there),
        nearest_quantiles=_quantiles(nearest_q),
        nearest_histogram=_histogram(nearest_q),
        duplicate_share=float((nearest_q > DUPLICATE).mean()) if len(nearest_q) else float("nan"),
        closest=_closest(there, asked, neighbour_q, nearest_q),
        encoder_quantiles=_quantiles(encoder_cosine_m),
        encoder_histogram=_histogram(encoder_cosine_m),
        decoder_norm_quantiles=_quantiles(norms_m),
    )


def _nearest(unit_md: Floats, asked: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Cosine [q] and index [q] of each asked row's nearest other row; nothing where there is only one row."""
    if len(unit_md) < 2:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    nearest_q, neighbour_q = np.empty(len(asked), np.float32), np.empty(len(asked), np.int64)
    step = max(1, _CHUNK_VALUES // len(unit_md))
    for start in range(0, len(asked), step):
        chunk = asked[start : start + step]
        cosine_qm = unit_md[chunk] @ unit_md.T
        cosine_qm[np.arange(len(chunk)), chunk] = -np.inf
        best = cosine_qm.argmax(axis=1)
        neighbour_q[start : start + step] = best
        nearest_q[start : start + step] = cosine_qm[np.arange(len(chunk)), best]
    return nearest_q, neighbour_q


def _closest(
    there: npt.NDArray[np.int64], asked: npt.NDArray[np.int64], neighbour_q: npt.NDArray[np.int64], nearest_q: Floats
) -> list[tuple[int, int, float]]:
    """The highest cosines, each pair once."""
    pairs: dict[tuple[int, int], float] = {}
    for query in np.argsort(-nearest_q, kind="stable"):
        first, second = sorted((int(there[asked[query]]), int(there[neighbour_q[query]])))
        pairs.setdefault((first, second), float(nearest_q[query]))
        if len(pairs) == _TOP:
            break
    return [(first, second, cosine) for (first, second), cosine in pairs.items()]


def _quantiles(values: Floats) -> dict[str, float]:
    return {f"{q:g}": float(np.quantile(values, q)) if len(values) else float("nan") for q in QUANTILES}


def _histogram(values: Floats) -> dict[str, list[float]]:
    lowest = -1.0 if len(values) and values.min() < 0 else 0.0
    counts, edges = np.histogram(np.clip(values, lowest, 1.0), _BINS, (lowest, 1.0))
    return {"edges": edges.tolist(), "latents": counts.tolist()}
