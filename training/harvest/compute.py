"""Which dtype and device a forward pass uses."""

from __future__ import annotations

import torch

from monitor.errors import FeaturewatchError

_BFLOAT16_CAPABILITIES = ("avx512_bf16", "amx_bf16", "bf16")


def forward_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def forward_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it natively and float32 elsewhere (emulation is slow)."""
    if name == "auto":
        native = device.type == "cuda" or _cpu_multiplies_bfloat16()
        return torch.bfloat16 if native else torch.float32
    if name not in ("float32", "bfloat16"):
        raise FeaturewatchError(f"dtype {name!r}", "it is auto, float32 or bfloat16", "choose one of them")
    return torch.float32 if name == "float32" else torch.bfloat16


def _cpu_multiplies_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(key, False)) for key in _BFLOAT16_CAPABILITIES)
