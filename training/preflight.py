"""What can be known to fail is told before the model runs for hours."""

from __future__ import annotations

from monitor.sae import HookPoint
from training.harvest.config import HarvestConfig
from training.harvest.model_config import ModelConfig
from training.options import require_all
from training.output_config import OutputConfig
from training.trainer.config import TrainConfig


def check_training(harvest: HarvestConfig, train: TrainConfig, output: OutputConfig) -> None:
    """Checks settings against one another and against the model's configuration; the harvest checks its data itself.

    Raises:
        FeaturewatchError: no such model, hook point or language-model head; too few latents, rows or held-out tokens.
    """
    model = ModelConfig.read(harvest.model)
    model.require_hook_points([HookPoint.parse(text) for text in harvest.hook_points])
    model.require_context(harvest.context)
    train.require_fits(model.width, harvest.tokens)
    require_all(
        [
            (
                model.predicts_tokens,
                f"model {harvest.model} of type {type(model.whole).__name__}",
                "transformers loads it without a language-model head, and the card needs its cross-entropy",
                "use a decoder-only model such as Llama, Qwen, Mistral, Gemma or GPT-2",
            ),
            (
                output.card_tokens >= 2 * harvest.context,
                f"card-tokens {output.card_tokens}",
                f"two held-out sequences of up to {harvest.context} tokens are needed",
                f"give at least {2 * harvest.context}",
            ),
        ]
    )
