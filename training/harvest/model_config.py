"""What a model's configuration says about its residual stream, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.loading import load_quietly


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the language model; of a multimodal model, that of its text part.

    Attributes:
        model: Hugging Face folder or id.
        layers: decoder layers.
        width: of the residual stream.
        positions: longest sequence, None where the configuration does not say.
        predicts_tokens: transformers has a class with a language-model head for it.
        whole: the Hugging Face configuration object.
    """

    model: str
    layers: int
    width: int
    positions: int | None
    predicts_tokens: bool
    whole: Any

    @classmethod
    def read(cls, model: str) -> ModelConfig:
        """Raises FeaturewatchError: no such model, or a configuration without layers and width."""
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        whole = load_quietly(model, lambda: AutoConfig.from_pretrained(model))
        text = text_part(whole)
        layers, width = getattr(text, "num_hidden_layers", None), getattr(text, "hidden_size", None)
        if not isinstance(layers, int) or not isinstance(width, int):
            raise FeaturewatchError(
                f"model {model} of type {getattr(whole, 'model_type', None)!r}",
                "its configuration states no num_hidden_layers and hidden_size, at the top or in text_config",
                "use a decoder-only model such as Llama, Qwen, Mistral, Gemma or GPT-2",
            )
        positions = getattr(text, "max_position_embeddings", None)
        return cls(
            model=model,
            layers=layers,
            width=width,
            positions=positions if isinstance(positions, int) else None,
            predicts_tokens=type(whole) in MODEL_FOR_CAUSAL_LM_MAPPING,
            whole=whole,
        )

    def require_hook_points(self, hook_points: Sequence[HookPoint]) -> None:
        """Raises FeaturewatchError for the first that the model lacks."""
        for hook_point in hook_points:
            hook_point.require_in(self.layers, self.model)

    def require_context(self, context: int) -> None:
        """Raises FeaturewatchError when sequences of `context` tokens are too long for the model."""
        if self.positions is not None and context > self.positions:
            raise FeaturewatchError(
                f"context {context}",
                f"model {self.model} takes at most {self.positions} positions",
                f"give --context {self.positions} or less",
            )


def text_part(config: Any) -> Any:
    """The configuration of the decoder: multimodal models nest it, most often as ``text_config``."""
    return config.get_text_config(decoder=True)


def cut(config: Any, depth: int) -> None:
    """Makes the configuration one of a model with the first `depth` layers only."""
    text = text_part(config)
    text.num_hidden_layers = depth
    if kinds := vars(text).get("layer_types"):  # some families derive it from the number of layers
        text.layer_types = kinds[:depth]
