"""Reads ``.pt`` files without ever running what is pickled in them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae.formats.npz_file import require_size


def read_torch(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Tensors by name (bfloat16 as float32), and the plain values beside them.

    Raises:
        FeaturewatchError: torch is missing, the file is damaged, is not a dict of tensors, or holds a pickle that
            would have to be executed.
    """
    try:
        import torch
    except ImportError as error:
        raise FeaturewatchError(
            f"SAE weights {path}", "a .pt file can only be read with torch", "pip install torch"
        ) from error
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            require_size(path, sum(entry.file_size for entry in archive.infolist()))
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise FeaturewatchError(
            f"SAE weights {path} ({_reason(error)})",
            "the file must be complete and hold nothing but tensors and plain values; anything else is a program, and "
            "it was not run",
            "download the SAE again, or ask its author for a safetensors file",
        ) from error
    if not isinstance(loaded, Mapping):
        raise FeaturewatchError(
            f"SAE weights {path} holding a {type(loaded).__name__}",
            "the file must hold a state dict: tensors by name",
            "store sae.state_dict()",
        )
    # A few stored numbers can be a tensor of any size: with strides of 0 each is read again and again.
    held = {
        str(name): value.detach()
        for name, value in loaded.items()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
    }
    require_size(path, sum(tensor.numel() * tensor.itemsize for tensor in held.values()))
    tensors: dict[str, npt.NDArray[Any]] = {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy() for name, tensor in held.items()
    }
    return tensors, {str(name): value for name, value in loaded.items() if str(name) not in held}


def _reason(error: Exception) -> str:
    """What torch found. Its first lines advise to read the file with weights_only=False, which would run it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Weights only load failed"):
        return next((line for line in lines if "nsupported" in line), "a pickle of something else")
    return next(iter(lines), type(error).__name__)
