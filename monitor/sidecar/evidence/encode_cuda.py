"""The full dictionary encode on a GPU, where torch is installed and sees one. Has not run on a GPU yet."""

from __future__ import annotations

import ctypes
import importlib.util
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitor.sae import Dictionary, GroupMax, JumpRelu, TopK, TopLatents
from monitor.sae.full_encode import TOP
from monitor.sae.input_norm import EPSILON, InputNorm

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
            rows, scale, shift = self._normalise(x, dictionary.input_norm)
            f = self._activate(torch.addmm(self._tensors["b_enc"], rows, self._tensors["w_enc"].T), dictionary)
            left = x - (torch.addmm(self._tensors["b_dec"], f, self._tensors["w_dec"]) * scale + shift)
            norm = x.double().square().sum(1)
            error = left.double().square().sum(1) / torch.where(norm > 0, norm, torch.inf)
            activations, latents = f.topk(k, dim=1)
            chunks.append([t.cpu().numpy() for t in (latents, activations, (f != 0).sum(1), error.float())])
        return TopLatents(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))

    def _normalise(self, x: Any, rule: InputNorm) -> tuple[Any, Any, Any]:
        """As `monitor.sae.input_norm.normalise`: rows, and the scale and shift that undo it."""
        torch = self._torch
        if rule == "layer_norm":
            std, mean = torch.std_mean(x, dim=1, keepdim=True)
            return (x - mean) / (std + EPSILON), std, mean
        if rule == "unit_norm":
            scale = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
            return x / torch.where(scale > 0, scale, 1.0), scale, 0.0
        return x, 1.0, 0.0

    def _activate(self, pre: Any, dictionary: Dictionary) -> Any:
        """As `monitor.sae.activation.activate_`, but which of equal latents TopK and GroupMax keep is open."""
        torch, activation = self._torch, dictionary.activation
        f = torch.relu(pre)
        if isinstance(activation, JumpRelu):
            return torch.where(f > self._tensors["threshold"], f, 0.0)
        if isinstance(activation, TopK):
            values, latents = f.topk(activation.k, dim=1)
            return torch.zeros_like(f).scatter_(1, latents, values)
        if isinstance(activation, GroupMax):
            groups = f.reshape(len(f), activation.groups, -1)
            values, latents = groups.max(dim=2, keepdim=True)
            return torch.zeros_like(groups).scatter_(2, latents, values).reshape(f.shape)
        return f

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
