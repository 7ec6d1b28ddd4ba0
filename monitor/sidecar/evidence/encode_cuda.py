"""The full dictionary encode on a GPU, where torch is installed and sees one. Has not run on a GPU yet."""

from __future__ import annotations

import ctypes
import importlib.util
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitor.sae import Dictionary, JumpRelu, TopLatents
from monitor.sae.full_encode import TOP

CHUNK_ROWS: Final = 256


def cuda_is_there() -> bool:
    """True when torch can be imported and has a CUDA device."""
    try:
        # Torch takes seconds and hundreds of megabytes to say no.
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


class CudaEncoder:
    """`monitor.sae.top_latents` with the matrices of the last dictionary on `device`, in float32 without TF32."""

    def __init__(self, device: str = "cuda") -> None:
        import torch  # the sidecar runs without it

        torch.backends.cuda.matmul.allow_tf32 = False
        self._torch: Any = torch
        self._device = device
        self._of: Dictionary | None = None
        self._tensors: dict[str, Any] = {}

    def top_latents(self, dictionary: Dictionary, x_nd: npt.NDArray[np.float32], top: int = TOP) -> TopLatents:
        """See `monitor.sae.top_latents`; which of equal latents comes first is open."""
        if self._of is not dictionary:
            self._load(dictionary)
        torch, k = self._torch, min(top, dictionary.num_latents)
        chunks = []
        for at in range(0, max(len(x_nd), 1), CHUNK_ROWS):
            x = torch.from_numpy(x_nd[at : at + CHUNK_ROWS]).to(self._device)
            f = torch.relu(torch.addmm(self._tensors["b_enc"], x, self._tensors["w_enc"].T))
            if "threshold" in self._tensors:
                f = torch.where(f > self._tensors["threshold"], f, 0.0)
            left = x - torch.addmm(self._tensors["b_dec"], f, self._tensors["w_dec"])
            norm = x.double().square().sum(1)
            error = left.double().square().sum(1) / torch.where(norm > 0, norm, torch.inf)
            activations, latents = f.topk(k, dim=1)
            chunks.append([t.cpu().numpy() for t in (latents, activations, (f != 0).sum(1), error.float())])
        return TopLatents(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))

    def _load(self, dictionary: Dictionary) -> None:
        # First let go of the one before: two may not fit.
        self._of, self._tensors = None, {}
        arrays = {
            "w_enc": dictionary.w_enc_md,
            "b_enc": dictionary.b_enc_m,
            "w_dec": dictionary.w_dec_md,
            "b_dec": dictionary.b_dec_d,
        }
        if isinstance(dictionary.activation, JumpRelu):
            arrays["threshold"] = dictionary.activation.threshold_m
        self._tensors = {name: self._torch.from_numpy(array).to(self._device) for name, array in arrays.items()}
        self._of = dictionary
