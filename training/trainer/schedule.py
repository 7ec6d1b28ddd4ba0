"""The learning rate over a run."""

from __future__ import annotations

from training.trainer.sae_config import SaeOptions


def learning_rate_at(options: SaeOptions, step: int, steps: int) -> float:
    """Linear warm-up, constant, linear decay to zero.

    Args:
        options: resolved.
        step: from 0.
        steps: of the whole run.
    """
    if options.learning_rate is None or options.warm_up is None or options.decay is None:
        raise ValueError("the options are not resolved")
    warm, fall = options.warm_up * steps, options.decay * steps
    rise = min(1.0, (step + 1) / warm) if warm >= 1 else 1.0
    drop = min(1.0, (steps - step) / fall) if fall >= 1 else 1.0
    return options.learning_rate * min(rise, drop)
