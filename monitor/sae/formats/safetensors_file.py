"""Reads safetensors files of every floating dtype into numpy, bfloat16 included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from monitor.errors import FeaturewatchError

# bfloat16 is the upper half of a float32.
_BF16: Final = "BF16"
_DTYPES: Final = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    _BF16: "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "|b1",
}


def read_safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Tensors by name; those that numpy knows stay on disk until they are used, bfloat16 becomes float32.

    Raises:
        FeaturewatchError: the file is damaged or has tensors of another dtype.
    """
    try:
        # Checks the header: names, offsets, lengths, and that nothing is missing or left over.
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise FeaturewatchError(
            f"SAE weights {path} ({error})",
            "the file must be in safetensors format and complete",
            "download or train the SAE again",
        ) from error
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {name: _tensor(path, 8 + size, name, entry) for name, entry in header.items()}


def _tensor(path: Path, start: int, name: str, entry: dict[str, Any]) -> npt.NDArray[Any]:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if dtype not in _DTYPES:
        raise FeaturewatchError(
            f"SAE weights {path} with tensor {name} of dtype {dtype}",
            f"tensors of {', '.join(_DTYPES)} can be read",
            "store the SAE again in one of them",
        )
    if 0 in shape:
        return np.empty(shape, _DTYPES[dtype])
    begin = entry["data_offsets"][0]
    # memmap knows no scalars.
    stored = np.memmap(path, _DTYPES[dtype], "r", start + begin, shape or (1,)).reshape(shape)
    if dtype != _BF16:
        return stored
    return (stored.astype("<u4") << 16).view("<f4")
