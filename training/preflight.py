"""What can be known to fail is told before the model runs for hours."""

from __future__ import annotations

from monitor.sae import HookPoint
from training.harvest.model_config import ModelConfig
from training.harvest.widths import site_widths
from training.options import require_all
from training.settings.run_config import RunConfig


def check_training(config: RunConfig) -> dict[HookPoint, int]:
    """Checks settings against one another and against the model's configuration; the harvest checks its data itself.

    Returns:
        The width of the rows at each hook point.

    Raises:
        FeaturewatchError: no such model, hook point or language-model head; too few latents, rows or held-out tokens.
    """
    harvest, output = config.harvest, config.output
    model = ModelConfig.read(harvest.model)
    points = [HookPoint.parse(text) for text in harvest.hook_points]
    model.require_hook_points(points)
    model.require_context(harvest.context)
    widths = site_widths(model, points)
    for sae in config.saes.values():
        sae.require_fits(widths[sae.hook_point])
    config.train.require_rows(harvest.tokens)
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
    return widths
