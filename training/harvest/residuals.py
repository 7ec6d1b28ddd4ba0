"""A Hugging Face model cut after the deepest hook point, giving residuals at several hook points in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.compute import forward_device, forward_dtype


class ResidualModel:
    """Residual streams of a decoder-only model.

    Later layers and the language-model head are not loaded into the pass at all.

    Args:
        model: Hugging Face folder or id.
        hook_points: where to read; the deepest one sets the cut.
        dtype: auto, float32 or bfloat16.

    Raises:
        FeaturewatchError: there is no such model, it lacks a hook point or its layers cannot be found.
    """

    def __init__(self, model: str, hook_points: Sequence[HookPoint], dtype: str = "auto") -> None:
        self.device = forward_device()
        self.dtype = forward_dtype(dtype, self.device)
        self.hook_points = tuple(sorted(set(hook_points)))
        network = load_network(model, self.dtype, head=False)
        layers_owner, name = find_layers(network, model)
        layers: nn.ModuleList = getattr(layers_owner, name)
        for hook_point in self.hook_points:
            hook_point.require_in(len(layers), model)
        depth = self.hook_points[-1].layer + 1
        setattr(layers_owner, name, layers[:depth])
        layers_owner.config.num_hidden_layers = depth
        self.width = int(layers_owner.config.hidden_size)
        self._network = network.to(self.device).eval()
        self._captured: dict[HookPoint, Tensor] = {}
        for hook_point in self.hook_points:
            layers[hook_point.layer].register_forward_hook(self._keep(hook_point))

    def _keep(self, hook_point: HookPoint) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._captured[hook_point] = output[0] if isinstance(output, tuple) else output

        return hook

    @torch.inference_mode()
    def residuals(self, token_ids_bt: npt.NDArray[np.int64]) -> dict[HookPoint, Tensor]:
        """Residual rows per hook point, float32 [b, t, d] on the CPU. Padding must be on the right."""
        self._captured.clear()
        self._network(input_ids=torch.from_numpy(token_ids_bt).to(self.device), use_cache=False)
        return {hook_point: rows_btd.float().cpu() for hook_point, rows_btd in self._captured.items()}


def load_network(model: str, dtype: torch.dtype, *, head: bool) -> Any:
    """A Hugging Face model, with its language-model head or without; raises FeaturewatchError."""
    from transformers import AutoModel, AutoModelForCausalLM

    loader = AutoModelForCausalLM if head else AutoModel
    return _load(model, lambda: loader.from_pretrained(model, dtype=dtype))


def residual_width(model: str) -> int:
    """Width of a model's residual stream, from its configuration; raises FeaturewatchError."""
    from transformers import AutoConfig

    return int(_load(model, lambda: AutoConfig.from_pretrained(model)).hidden_size)


def load_tokenizer(model: str) -> Any:
    """Its fast tokenizer; raises FeaturewatchError."""
    from transformers import AutoTokenizer

    tokenizer = _load(model, lambda: AutoTokenizer.from_pretrained(model))
    if not tokenizer.is_fast:
        raise FeaturewatchError(
            f"tokenizer of {model}", "a fast tokenizer (tokenizer.json) is needed", "convert it with transformers"
        )
    return tokenizer


def find_layers(network: Any, model: str) -> tuple[Any, str]:
    """The module that owns the decoder layers and the name of its list."""
    depth = getattr(network.config, "num_hidden_layers", None)
    for owner in (network, getattr(network, "model", None), getattr(network, "language_model", None)):
        for name in ("layers", "h"):
            layers = getattr(owner, name, None)
            if isinstance(layers, nn.ModuleList) and len(layers) == depth:
                return owner, name
    raise FeaturewatchError(
        f"model {model} of type {type(network).__name__}",
        "its decoder layers were not found under layers or h",
        "use a decoder-only model such as Llama, Qwen, Mistral or GPT-2",
    )


def _load(model: str, load: Any) -> Any:
    if not model:
        raise FeaturewatchError("model ''", "a Hugging Face folder or id is needed", "name one")
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        raise FeaturewatchError(
            f"model folder {model}", "there is no such folder", "fetch one with `featurewatch model fetch smollm2`"
        )
    from transformers.utils import logging

    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    # Its report lists the head as unexpected, which is what a cut is for.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load()
    except (OSError, ValueError) as error:
        raise FeaturewatchError(
            f"model {model!r} ({str(error).splitlines()[0]})",
            "it must be a Hugging Face folder or id that transformers can load",
            "check the path, or fetch one with `featurewatch model fetch smollm2`",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()
