"""Residuals of a model at several hook points, from text to a shuffled cache on disk."""

from training.harvest.cache import ActivationCache
from training.harvest.config import HarvestConfig
from training.harvest.run import harvest

__all__ = ["ActivationCache", "HarvestConfig", "harvest"]
