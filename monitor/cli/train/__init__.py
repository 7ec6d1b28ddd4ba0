"""`featurewatch train`: SAEs from text, in one go. Its options come from the settings classes of the training."""

from monitor.cli.train.lazy_command import TrainCommand, train

__all__ = ["TrainCommand", "train"]
