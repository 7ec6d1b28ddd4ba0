"""One threshold for an SAE that was trained elsewhere, fitted on rows of the model that it is for."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, TopK
from monitor.sae.input_norm import normalise
from training.harvest.cache import ActivationCache
from training.trainer.export import with_threshold

Floats = npt.NDArray[np.float32]
_BATCH_ROWS = 4096


def fitted_on_rows(dictionary: Dictionary, rows_nd: Floats, l0: float) -> Dictionary:
    """The dictionary as JumpReLU with the one threshold at which `l0` latents per row fire on average on `rows_nd`.

    Raises:
        FeaturewatchError: l0 is no number of latents, or fewer are positive.
    """
    if not 0 < l0 <= dictionary.num_latents:
        raise FeaturewatchError(
            f"l0 {l0:g}",
            f"it lies above 0 and at most at the SAE's {dictionary.num_latents} latents",
            f"its training kept {dictionary.activation.k}" if isinstance(dictionary.activation, TopK) else "choose one",
        )
    if dictionary.input_norm != "none":
        rows_nd = normalise(rows_nd, dictionary.input_norm).rows_nd
    plain = dataclasses.replace(dictionary, metadata={**dictionary.metadata, "threshold_l0": l0})
    return with_threshold(plain, rows_nd, l0)


def read_rows(path: Path, dictionary: Dictionary, most: int) -> Floats:
    """Rows [n, d] of the dictionary's hook point: out of an activation cache, or of a ``.npy`` file.

    Raises:
        FeaturewatchError: there is neither, or the rows do not fit the dictionary.
    """
    if path.is_dir():
        return _cached_rows(path, dictionary, most)
    if path.suffix != ".npy" or not path.is_file():
        raise FeaturewatchError(
            f"rows {path}",
            "they come from an activation cache folder or a .npy file",
            "harvest: featurewatch train --help",
        )
    try:
        rows_nd = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        # numpy's own words advise to run what is pickled in it.
        raise FeaturewatchError(
            f"rows {path}", "it must be a .npy file of numbers, and whole", "store it again"
        ) from error
    if rows_nd.ndim != 2 or rows_nd.dtype.kind != "f" or not len(rows_nd):
        raise FeaturewatchError(
            f"rows {path} of shape {list(rows_nd.shape)} and dtype {rows_nd.dtype}",
            "they must be floats of shape [rows, width]",
            "store one residual row per token",
        )
    dictionary.require_width(rows_nd.shape[1], f"the rows in {path}")
    rows = np.array(rows_nd[:most], np.float32)
    if not np.isfinite(rows).all():
        raise FeaturewatchError(f"rows {path} with NaN or infinite values", "rows must be finite", "leave those out")
    return rows


def _cached_rows(path: Path, dictionary: Dictionary, most: int) -> Floats:
    cache = ActivationCache(path)
    cache.require(dictionary.hook_point)
    held = cache.manifest.rows
    if not held:
        raise FeaturewatchError(f"activation cache {path}", "it holds no rows", "harvest it first")
    batch = min(_BATCH_ROWS, most, held)
    parts = list(islice(cache.batches(dictionary.hook_point, batch, seed=0), -(-most // batch)))
    dictionary.require_width(parts[0].shape[1], f"the cache {path}")
    return np.concatenate(parts)[:most]
