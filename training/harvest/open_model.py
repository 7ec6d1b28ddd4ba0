"""The model that a harvest asks for, open as long as it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from monitor.sae import HookPoint
from training.harvest.activations import ActivationModel
from training.harvest.config import HarvestConfig
from training.harvest.engine_model import EngineModel, check_engine_points, require_room
from training.harvest.engine_start import engine_version, parse_engine_args
from training.harvest.model_config import ModelConfig
from training.harvest.residuals import ResidualModel


def engine_identity(config: HarvestConfig, hook_points: Sequence[HookPoint], shape: ModelConfig) -> dict[str, str]:
    """What goes into a cache's identity beside model and data: the engine and its version; nothing for Hugging Face.

    Raises:
        FeaturewatchError: vLLM is not installed, has bad arguments, or cannot give these hook points or sequences.
    """
    if config.activations != "vllm":
        return {}
    check_engine_points(hook_points)
    require_room(shape, config.context)
    parse_engine_args(config.engine_args)
    return {"engine": f"vLLM {engine_version()}"}


@contextmanager
def open_model(
    config: HarvestConfig, hook_points: Sequence[HookPoint], dtype: str
) -> Iterator[tuple[ActivationModel, dict[str, Any]]]:
    """The model of `config.activations`, and what is known of its engine (empty for Hugging Face).

    Raises:
        FeaturewatchError: see `ResidualModel` and `EngineModel`.
    """
    if config.activations != "vllm":
        yield ResidualModel(config.model, hook_points, dtype), {}
        return
    arguments = parse_engine_args(config.engine_args)
    with EngineModel(config.model, hook_points, dtype, context=config.context, engine_args=arguments) as model:
        yield model, model.engine
