"""Words for the latents of an SAE: ``catalog.parquet`` beside its weights, one row per latent.

Columns: ``latent`` (integer), ``label`` (text), and for the reader ``label_source`` and ``label_score``. pyarrow reads
it and is imported by the first call.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from monitor.errors import FeaturewatchError

CATALOG_FILE: Final = "catalog.parquet"


def read_labels(folder: Path) -> Mapping[str, tuple[int, ...]]:
    """Latents by label; empty when the SAE's folder has no catalog.

    Raises:
        FeaturewatchError: the file is damaged or lacks a column, or pyarrow is not installed.
    """
    file = folder / CATALOG_FILE
    if not file.is_file():
        return {}
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise FeaturewatchError(
            f"catalog {file}", "reading it takes pyarrow", "pip install pyarrow, or name latents by index"
        ) from error
    try:
        table = parquet.read_table(file, columns=["latent", "label"]).to_pydict()
        rows = [(int(latent), label) for latent, label in zip(table["latent"], table["label"], strict=True) if label]
    except (ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise FeaturewatchError(
            f"catalog {file} ({error})",
            "it must be a Parquet file with the columns latent (integer) and label (text)",
            "write it anew, or name latents by index",
        ) from error
    found: dict[str, tuple[int, ...]] = {}
    for latent, label in rows:
        found[label] = (*found.get(label, ()), latent)
    return found


def labelled_latent(labels: Mapping[str, tuple[int, ...]], sae_id: str, label: str) -> int:
    """The one latent with this label; raises FeaturewatchError with the nearest labels or the candidates."""
    latents = labels.get(label, ())
    if len(latents) == 1:
        return latents[0]
    if latents:
        raise FeaturewatchError(
            f"label {label!r} of SAE {sae_id!r}",
            f"latents {', '.join(map(str, latents))} have it",
            "name one of them by index",
        )
    near = difflib.get_close_matches(label, labels, n=3, cutoff=0.4)
    raise FeaturewatchError(
        f"label {label!r} of SAE {sae_id!r}",
        "no latent in its catalog has this label" if labels else f"it has no labels (no {CATALOG_FILE} beside it)",
        f"did you mean {' or '.join(map(repr, near))}" if near else "name the latent by index",
    )
