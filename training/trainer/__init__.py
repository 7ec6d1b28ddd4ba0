"""BatchTopK training of sparse autoencoders from an activation cache."""

from training.trainer.config import TrainConfig
from training.trainer.export import mean_l0, require_l0, rounded, to_dictionary, with_threshold
from training.trainer.train import TrainedSae, train_sae

__all__ = [
    "TrainConfig",
    "TrainedSae",
    "mean_l0",
    "require_l0",
    "rounded",
    "to_dictionary",
    "train_sae",
    "with_threshold",
]
