"""Residuals as Hugging Face computes them: the truth that the tap is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class Reference:
    """Decoder layer outputs of a Hugging Face model in float32."""

    def __init__(self, folder: Path | str) -> None:
        from transformers import AutoModelForCausalLM

        # Gemma's soft cap on attention scores is left out by the fused implementations.
        self._model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self._outputs: list[torch.Tensor] = []
        count = self._model.config.num_hidden_layers
        (layers,) = (
            module
            for module in self._model.modules()
            if isinstance(module, torch.nn.ModuleList) and len(module) == count
        )
        for layer in layers:
            layer.register_forward_hook(self._record)

    def _record(self, module: Any, args: Any, output: Any) -> None:
        self._outputs.append(output[0] if isinstance(output, tuple) else output)

    def residuals(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """[layers, n, d]: the residual stream after each decoder layer. The last one too is taken before the final
        norm, unlike `hidden_states[-1]`."""
        self._outputs.clear()
        with torch.inference_mode():
            self._model(torch.tensor([list(token_ids)]), use_cache=False)
        return torch.stack([output[0] for output in self._outputs]).numpy()

    def surroundings(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """[layers + 2, n, d]: what goes into the first layer, the stream after each layer, and what comes out of the
        final norm. The stream after layer i is at i + 1."""
        layers_lnd = self.residuals(token_ids)
        with torch.inference_mode():
            answer = self._model(torch.tensor([list(token_ids)]), use_cache=False, output_hidden_states=True)
        first, last = answer.hidden_states[0][0], answer.hidden_states[-1][0]
        return np.concatenate([first[None].numpy(), layers_lnd, last[None].numpy()])


def relative_error(observed: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest row-wise ``|observed - expected| / |expected|`` (2-norms) of [n, d] arrays."""
    difference = np.linalg.norm(observed - expected, axis=-1)
    return float((difference / np.linalg.norm(expected, axis=-1)).max())
